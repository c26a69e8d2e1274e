"""One output of a job as it is collected, for answers that are not streamed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from scheduler_svc.http.errors import no_result, not_again
from stepserve.protocol.inference import StreamEvent, Usage
from stepserve.protocol.job import Finish
from stepserve.protocol.step import TokenLogprobs


@dataclass(slots=True)
class Choice:
    """What came of one output."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    text_offsets: list[int] = field(default_factory=list)
    finish: Finish | None = None

    def add(self, event: StreamEvent) -> None:
        """Append what an event brings."""
        self.text += event.text
        self.token_ids += event.token_ids
        self.logprobs += event.logprobs
        self.text_offsets += event.text_offsets
        self.finish = event.finish or self.finish

    @property
    def reason(self) -> str:
        """Why it ended, as OpenAI says it: "stop" or "length"."""
        assert self.finish is not None
        return self.finish.reason


@dataclass(slots=True)
class Collected:
    """All outputs of one job."""

    job_id: str
    choices: list[Choice]
    usage: Usage = field(default_factory=lambda: Usage(0, 0))


async def collect(events: AsyncIterator[StreamEvent], num_outputs: int) -> Collected:
    """Return a job's outputs once all have ended. Raises ApiError where one came to none."""
    first = await anext(events)
    found = Collected(first.job_id, [Choice() for _ in range(num_outputs)])
    try:
        async for event in events:
            checked(event)
            found.choices[event.index].add(event)
            found.usage = event.usage or found.usage
    except Exception as error:
        raise not_again(error) from error
    return found


async def collect_all(
    jobs: Sequence[AsyncGenerator[StreamEvent, None]], num_outputs: int
) -> Sequence[Collected]:
    """Return every job's outputs, each of ``num_outputs``; the first error ends all of them."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_collect_closing(job, num_outputs)) for job in jobs]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


async def _collect_closing(job: AsyncGenerator[StreamEvent, None], num_outputs: int) -> Collected:
    async with aclosing(job) as events:
        return await collect(events, num_outputs)


def checked(event: StreamEvent) -> StreamEvent:
    """Return the event. Raises ApiError where its output came to no end of its own."""
    if event.finish is not None and (error := no_result(event.finish)) is not None:
        raise error
    return event
