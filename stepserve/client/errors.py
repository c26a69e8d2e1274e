"""What the client raises.

StepserveError            the answers make no sense
├── InvalidRequest        the request is wrong; ``field`` names what is
├── NotFound              no such job or model
├── Exhausted             the queue is full; try again after ``retry_after_ms``
├── Unavailable           no service was reached, or Redis was away, for too long
└── CallFailed            any other status; ``code`` is its name
"""

from __future__ import annotations

from typing import Any

import grpc

from stepserve.protocol.errors import (
    Exhausted,
    InvalidRequest,
    NotFound,
    StepserveError,
    Unavailable,
)
from stepserve.protocol.inference_wire import RETRY_AFTER_KEY

__all__ = [
    "CallFailed",
    "Exhausted",
    "InvalidRequest",
    "NotFound",
    "StepserveError",
    "Unavailable",
    "from_status",
]

DEFAULT_RETRY_AFTER_MS = 1000
_TOO_LARGE = "larger than max"


class CallFailed(StepserveError):
    """The service or the connection ended a call with the gRPC status named ``code``."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code


def from_status(error: grpc.RpcError) -> StepserveError:
    """Return the error that a call's status stands for."""
    call: Any = error
    code, text = call.code(), call.details() or ""
    if code == grpc.StatusCode.INVALID_ARGUMENT:
        field, _, problem = text.partition(": ")
        return InvalidRequest(field, problem)
    if code == grpc.StatusCode.NOT_FOUND:
        return NotFound(text)
    if code == grpc.StatusCode.UNAVAILABLE:
        return Unavailable(text)
    if code == grpc.StatusCode.RESOURCE_EXHAUSTED:
        if _TOO_LARGE in text:  # gRPC's own refusal
            return InvalidRequest("request", text)
        trailers = dict(call.trailing_metadata() or ())
        return Exhausted(text, int(trailers.get(RETRY_AFTER_KEY, DEFAULT_RETRY_AFTER_MS)))
    return CallFailed(code.name, text)
