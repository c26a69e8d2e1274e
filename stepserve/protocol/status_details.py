"""What a gRPC status says besides its code and text: google.rpc's details, as trailers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TypeAlias

from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from stepserve.protocol.errors import (
    Exhausted,
    Forbidden,
    InvalidRequest,
    StepserveError,
    Unavailable,
)
from stepserve.protocol.inference_wire import RETRY_AFTER_KEY

Trailers: TypeAlias = tuple[tuple[str, str | bytes], ...]

DOMAIN = "stepserve"
# Of 8 KiB that all headers together may have, where each character takes nine bytes.
MAX_TEXT_CHARS = 400
DETAILS_KEY = "grpc-status-details-bin"
# gRPC's own clients wait for so long before they try again, where they were told to.
PUSHBACK_KEY = "grpc-retry-pushback-ms"


def text_of(error: StepserveError) -> str:
    """Return an error's text as it travels: headers have a bound, and a template may say much."""
    return str(error)[:MAX_TEXT_CHARS]


def trailers_of(error: StepserveError, code: int) -> Trailers:
    """Return the trailers that go with the status of an error, whose number is ``code``."""
    status = status_pb2.Status(code=code, message=text_of(error))
    details: list[error_details_pb2.ErrorInfo | error_details_pb2.BadRequest] = [
        error_details_pb2.ErrorInfo(reason=reason_of(type(error)), domain=DOMAIN)
    ]
    if isinstance(error, InvalidRequest | Forbidden):
        problem = text_of(error).removeprefix(f"{error.field}: ")
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=error.field[:MAX_TEXT_CHARS], description=problem
        )
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    for detail in details:
        _add(status, detail)
    trailers: Trailers = ()
    if isinstance(error, Exhausted | Unavailable):
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(error.retry_after_ms)
        _add(status, retry)
        pause = str(error.retry_after_ms)
        trailers = ((RETRY_AFTER_KEY, pause), (PUSHBACK_KEY, pause))
    return (*trailers, (DETAILS_KEY, status.SerializeToString()))


def details_of(trailers: Iterable[tuple[str, str | bytes]]) -> tuple[str, str]:
    """Return the reason and the field that trailers name; empty where they name none."""
    status = status_pb2.Status()
    try:
        for key, value in trailers:
            if key == DETAILS_KEY and isinstance(value, bytes):
                status.ParseFromString(value)
    except DecodeError:
        return "", ""  # another's
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status.details:
        _ = detail.Unpack(info) or detail.Unpack(bad)
    field = bad.field_violations[0].field if bad.field_violations else ""
    return info.reason, field


def reason_of(kind: type[StepserveError]) -> str:
    """Return a kind of error as google.rpc.ErrorInfo names reasons: INVALID_REQUEST."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).upper()


def _add(
    status: status_pb2.Status,
    detail: error_details_pb2.ErrorInfo
    | error_details_pb2.BadRequest
    | error_details_pb2.RetryInfo,
) -> None:
    packed = Any()
    packed.Pack(detail)
    status.details.append(packed)
