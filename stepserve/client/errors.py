"""What the client raises.

StepserveError            the answers make no sense
├── InvalidRequest        the request is wrong; ``field`` names what is
│   ├── OutOfRange        there is no such offset
│   └── Infeasible        it cannot be met as things are: a deadline
├── NotFound              no such job or model, or another tenant's
├── Unauthenticated       an API key is needed, or this one is not known
├── Forbidden             the API key may not do this; ``field`` names what
├── Exhausted             the queue is full; try again after ``retry_after_ms``
├── Unavailable           no service was reached, or Redis was away, for too long
│   └── Unreached         no service answers there; ``why`` says why
├── BegunAnew             the job was begun anew: attach again from offset 0
├── TimedOut              the client's own time was over; also a TimeoutError
└── CallFailed            any other status; ``code`` is its name
"""

from __future__ import annotations

from typing import Any

import grpc

from stepserve.client.unreached import why_unreached
from stepserve.protocol.errors import (
    BegunAnew,
    Exhausted,
    Forbidden,
    Infeasible,
    InvalidRequest,
    NotFound,
    OutOfRange,
    StepserveError,
    Unauthenticated,
    Unavailable,
)
from stepserve.protocol.inference_wire import RETRY_AFTER_KEY
from stepserve.protocol.status_details import details_of, reason_of

__all__ = [
    "BegunAnew",
    "CallFailed",
    "Exhausted",
    "Forbidden",
    "Infeasible",
    "InvalidRequest",
    "NotFound",
    "OutOfRange",
    "StepserveError",
    "TimedOut",
    "Unauthenticated",
    "Unavailable",
    "Unreached",
    "from_status",
]

DEFAULT_RETRY_AFTER_MS = 1000
_TOO_LARGE = "larger than max"


class CallFailed(StepserveError):
    """The service or the connection ended a call with the gRPC status named ``code``."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code


class Unreached(Unavailable):
    """No service answers, at ``target`` where that is known; ``why`` is in plain words."""

    def __init__(self, why: str, target: str = "") -> None:
        super().__init__(f"no service answers{' at ' * bool(target)}{target}: {why}")
        self.why = why


class TimedOut(StepserveError, TimeoutError):
    """What the client gave itself time for took longer. The job, if there is one, goes on."""

    code = "DEADLINE_EXCEEDED"


_KINDS: tuple[type[StepserveError], ...] = (
    InvalidRequest,
    OutOfRange,
    Infeasible,
    BegunAnew,
    NotFound,
    Unauthenticated,
    Forbidden,
    Unavailable,
    TimedOut,
)
_OF_REASON = {reason_of(kind): kind for kind in _KINDS}
# Of a service before this version, or of gRPC itself: where the code alone tells.
_OF_CODE = {kind.code: kind for kind in _KINDS if kind.code != Infeasible.code}


def from_status(error: grpc.RpcError) -> StepserveError:
    """Return the error that a call's status stands for."""
    call: Any = error
    code, text = call.code(), call.details() or ""
    trailers = tuple(call.trailing_metadata() or ())
    if code == grpc.StatusCode.RESOURCE_EXHAUSTED:
        if _TOO_LARGE in text:  # gRPC's own refusal
            return InvalidRequest("request", text)
        return Exhausted(text, int(dict(trailers).get(RETRY_AFTER_KEY, DEFAULT_RETRY_AFTER_MS)))
    reason, field = details_of(trailers)
    kind = _OF_REASON.get(reason) or _OF_CODE.get(code.name)
    if kind is not None and issubclass(kind, InvalidRequest | Forbidden):
        named, _, problem = text.partition(": ")
        is_named = field and text.startswith(f"{field}: ")
        return kind(field, text[len(field) + 2 :]) if is_named else kind(named, problem)
    if kind is Unavailable and (why := why_unreached(text)):
        return Unreached(why)
    if kind is not None:
        return kind(text)
    if code == grpc.StatusCode.UNIMPLEMENTED:
        text = f"{text} (what serves there is no stepserve scheduler, or an older one)"
    return CallFailed(code.name, text)
