"""Where in a stream a client is: what the id of an event says, and what goes on after it."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from scheduler_svc.frontend.validate import job_id_of
from scheduler_svc.http.call import Call
from scheduler_svc.http.errors import ApiError, not_found
from scheduler_svc.http.ids import unique_of
from stepserve.protocol.errors import NotFound
from stepserve.protocol.inference import StreamEvent
from stepserve.protocol.sampling import MAX_OUTPUTS

_PLACE = re.compile(r"([0-9a-f]{32}):((?:\d{1,9}-\d{1,10}\.?)+)")


@dataclass(slots=True)
class Place:
    """How much of each output of a job was sent: tokens, and characters of its text."""

    unique: str
    num_tokens: list[int]
    num_chars: list[int]
    _parts: list[str] = field(init=False)

    def __post_init__(self) -> None:
        pairs = zip(self.num_tokens, self.num_chars, strict=True)
        self._parts = [f"{tokens}-{chars}" for tokens, chars in pairs]

    @classmethod
    def start(cls, job_id: str, num_outputs: int) -> Place:
        """Return the place before everything."""
        return cls(unique_of(job_id), [0] * num_outputs, [0] * num_outputs)

    @property
    def event_id(self) -> str:
        """The id of the event that ends here."""
        return f"{self.unique}:{'.'.join(self._parts)}"

    def advance(self, event: StreamEvent) -> None:
        """Go on to the end of an event."""
        index = event.index
        self.num_tokens[index] = num_tokens = event.offset + len(event.token_ids)
        self.num_chars[index] = num_chars = self.num_chars[index] + len(event.text)
        self._parts[index] = f"{num_tokens}-{num_chars}"


def place_of(call: Call, num_outputs: int) -> Place | None:
    """Return where a client goes on, None where it begins. Raises ApiError for no place."""
    if not call.last_event_id:
        return None
    match = _PLACE.fullmatch(call.last_event_id)
    pairs = match[2].split(".") if match else []
    if match is None or len(pairs) != num_outputs or num_outputs > MAX_OUTPUTS:
        raise _no_place()
    numbers = [tuple(map(int, pair.split("-"))) for pair in pairs]
    return Place(match[1], [tokens for tokens, _ in numbers], [chars for _, chars in numbers])


async def resumed(
    call: Call, model: str, place: Place, offsets: Sequence[int]
) -> AsyncGenerator[StreamEvent, None]:
    """Stream a job of the caller's own from offsets on; as ``generate`` does, its id first."""
    job_id = job_id_of(model, place.unique)
    try:
        job = await call.jobs.get(job_id)
    except NotFound:
        what = f"the stream of the Last-Event-ID {call.last_event_id[:100]!r}"
        raise not_found(what, "last_event_id") from None
    if len(job.outputs) != len(place.num_tokens):
        raise _no_place()
    yield StreamEvent(job_id)
    async with aclosing(call.jobs.events(job_id, offsets=offsets, grace_s=call.grace_s)) as events:
        async for event in events:
            yield event


def _no_place() -> ApiError:
    problem = "the Last-Event-ID is of no stream of this request"
    return ApiError(400, problem, param="last_event_id", code="invalid_event_id")
