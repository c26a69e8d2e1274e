"""A stream that goes on where it was when a connection breaks: the part without IO."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from stepserve.protocol.errors import StepserveError
from stepserve.protocol.inference import StreamEvent
from stepserve.protocol.inference_wire import AttachRequest, SubmitRequest


class Following:
    """Where each output of one job stands, as events arrive over one call after another.

    Begins with a request to Generate or to Attach. ``num_outputs`` is None where only the
    service knows how many outputs the job has.
    """

    def __init__(
        self, first: SubmitRequest | AttachRequest, num_outputs: int | None = None
    ) -> None:
        self._first = first
        self.num_outputs = num_outputs
        self.job_id = first.job_id if isinstance(first, AttachRequest) else ""
        self.is_complete = False
        self._offsets: dict[int, int] = {}
        self._ended: set[int] = set()

    def request(self) -> SubmitRequest | AttachRequest:
        """Return what to ask now: the first request again, or the rest of what it asked for."""
        if not self._offsets:
            return self._first
        first = self._first
        starts: Sequence[int] = ()
        start = 0
        if isinstance(first, AttachRequest):
            starts, start = first.offsets, first.offset
        count = self.num_outputs if self.num_outputs is not None else len(starts)
        offsets = [
            self._offsets.get(index, starts[index] if starts else start) for index in range(count)
        ]
        return AttachRequest(job_id=self.job_id, offsets=offsets)

    @property
    def needs_outputs(self) -> bool:
        """Whether ``num_outputs`` must be asked for before ``request``."""
        return bool(self._offsets) and self.num_outputs is None

    def take(self, event: StreamEvent) -> StreamEvent | None:
        """Return the event if it says anything new."""
        self.job_id = event.job_id
        self.is_complete = event.usage is not None
        if event.index in self._ended:
            # After a reconnect every end is told again, with the text that was held back.
            return _only_usage(event) if self.is_complete else None
        # The event that only tells the job's id is no progress of an output.
        if event.token_ids or event.finish is not None:
            self._offsets[event.index] = event.offset + len(event.token_ids)
        if event.finish is not None:
            self._ended.add(event.index)
        return event

    def closed(self) -> None:
        """Call when the service has closed the stream: raises where that was too early."""
        if not self.is_complete:
            raise StepserveError(f"the stream of job {self.job_id} has ended before the job")


def _only_usage(event: StreamEvent) -> StreamEvent:
    return replace(event, token_ids=(), text="", logprobs=(), finish=None)
