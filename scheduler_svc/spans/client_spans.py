"""The spans of what clients ask for: that a job is taken in, and that its output is streamed."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING

from stepserve.protocol.inference import Request, StreamEvent
from stepserve.protocol.job import JobSpec

if TYPE_CHECKING:
    from scheduler_svc.spans.tracing import Piece, Tracing, Value


class Taking:
    """A job that is taken in; ``context`` is to be kept with it, empty where nothing is traced."""

    def __init__(self, piece: Piece | None = None) -> None:
        self._piece = piece
        self.context = piece.context if piece is not None else ""

    def taken(self, job_id: str, spec: JobSpec | None) -> None:
        """It is stored under this id; ``spec`` is None where it was there before."""
        if self._piece is None:
            return
        self._piece.note({"stepserve.job.id": job_id, "stepserve.job.existed": spec is None})
        if spec is not None:
            self._piece.note({"gen_ai.usage.input_tokens": len(spec.prompt_token_ids)})


_UNTRACED = Taking()


@contextmanager
def taking(tracing: Tracing | None, request: Request, model: str) -> Iterator[Taking]:
    """Trace that a request becomes a job, for the time of the block."""
    if tracing is None:
        yield _UNTRACED
        return
    told: dict[str, Value] = {
        "stepserve.tenant": request.tenant,
        "stepserve.priority": request.priority,
        "gen_ai.request.model": model,
    }
    with tracing.submitting(told) as piece:
        yield Taking(piece)


async def traced_stream(
    tracing: Tracing, spec: JobSpec, events: AsyncGenerator[StreamEvent, None]
) -> AsyncGenerator[StreamEvent, None]:
    """Yield the events, in a span of the job: until its end, or until the client leaves."""
    from scheduler_svc.spans.tracing import job_attributes

    piece = tracing.begin("stream", spec.trace, job_attributes(spec))
    num_events = num_tokens = 0
    reasons: list[str] = []
    try:
        async with aclosing(events) as following:
            async for event in following:
                if not num_events:
                    piece.happened("first event")
                num_events += 1
                num_tokens += len(event.token_ids)
                if event.finish is not None:
                    reasons.append(event.finish.reason)
                yield event
    except Exception as error:
        piece.failed(type(error).__name__)
        raise
    finally:
        piece.end(
            {
                "stepserve.stream.events": num_events,
                "stepserve.stream.tokens": num_tokens,
                "stepserve.stream.is_whole": len(reasons) == spec.sampling.n,
                "gen_ai.response.finish_reasons": reasons,
            }
        )
