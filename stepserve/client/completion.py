"""A job's whole output, collected from its events."""

from __future__ import annotations

from dataclasses import dataclass

from stepserve.protocol.inference import StreamEvent, Usage
from stepserve.protocol.step import TokenLogprobs


@dataclass(frozen=True, slots=True)
class Output:
    """One of the job's outputs. ``logprobs`` is empty where none were asked for."""

    index: int
    text: str
    token_ids: tuple[int, ...]
    finish_reason: str
    finish_message: str = ""
    logprobs: tuple[TokenLogprobs, ...] = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """A job that has ended."""

    job_id: str
    outputs: tuple[Output, ...]
    usage: Usage

    @property
    def text(self) -> str:
        """The text of the first output."""
        return self.outputs[0].text


class Collector:
    """Puts events together."""

    def __init__(self) -> None:
        self._events: dict[int, list[StreamEvent]] = {}
        self._usage = Usage(0, 0)

    def add(self, event: StreamEvent) -> None:
        self._events.setdefault(event.index, []).append(event)
        self._usage = event.usage or self._usage

    def completion(self) -> Completion:
        outputs = tuple(_output(index, events) for index, events in sorted(self._events.items()))
        return Completion(self._events[outputs[0].index][0].job_id, outputs, self._usage)


def _output(index: int, events: list[StreamEvent]) -> Output:
    # Not always the last event: usage may come after it, in one of its own.
    finish = next((event.finish for event in events if event.finish is not None), None)
    return Output(
        index=index,
        text="".join(event.text for event in events),
        token_ids=tuple(token_id for event in events for token_id in event.token_ids),
        finish_reason=finish.reason if finish is not None else "",
        finish_message=finish.message if finish is not None else "",
        logprobs=tuple(entry for event in events for entry in event.logprobs),
    )
