"""What a status says besides its text, as any gRPC client can read it."""

from __future__ import annotations

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from stepserve.client.errors import TimedOut, from_status
from stepserve.protocol.errors import (
    BegunAnew,
    Exhausted,
    Infeasible,
    InvalidRequest,
    NotFound,
    OutOfRange,
    StepserveError,
    Unavailable,
)
from stepserve.protocol.inference_wire import RETRY_AFTER_KEY
from stepserve.protocol.status_details import (
    DETAILS_KEY,
    PUSHBACK_KEY,
    Trailers,
    details_of,
    trailers_of,
)

ERRORS: list[tuple[StepserveError, str]] = [
    (InvalidRequest("sampling.logit_bias[a: b]", "is: none"), "INVALID_REQUEST"),
    (OutOfRange("offset", "9 is beyond the end"), "OUT_OF_RANGE"),
    (Infeasible("deadline_s", "too near"), "INFEASIBLE"),
    (NotFound("no such job"), "NOT_FOUND"),
    (BegunAnew("on another model"), "BEGUN_ANEW"),
    (Exhausted("full", 1234), "EXHAUSTED"),
    (Unavailable("Redis is away"), "UNAVAILABLE"),
]


class Ended(grpc.RpcError):
    """A call that ended with a status and trailers."""

    def __init__(self, code: str, text: str, trailers: Trailers = ()) -> None:
        self._code, self._text, self._trailers = grpc.StatusCode[code], text, trailers

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._text

    def trailing_metadata(self) -> Trailers:
        return self._trailers


@pytest.mark.parametrize(("error", "reason"), ERRORS)
def test_an_error_survives_the_status(error: StepserveError, reason: str) -> None:
    number = grpc.StatusCode[error.code].value[0]
    trailers = trailers_of(error, number)
    assert details_of(trailers)[0] == reason
    again = from_status(Ended(error.code, str(error), trailers))
    assert (type(again), str(again)) == (type(error), str(error))
    if isinstance(error, InvalidRequest):
        assert isinstance(again, InvalidRequest)
        assert again.field == error.field
    status = status_pb2.Status.FromString(dict(trailers)[DETAILS_KEY])  # type: ignore[arg-type]
    assert (status.code, status.message) == (number, str(error))


def test_the_field_and_the_wait_are_googles_messages() -> None:
    wrong = status_pb2.Status.FromString(
        dict(trailers_of(InvalidRequest("sampling.n", "must be 1"), 3))[DETAILS_KEY]  # type: ignore[arg-type]
    )
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    assert wrong.details[0].Unpack(info)
    assert wrong.details[1].Unpack(bad)
    assert (info.domain, info.reason) == ("stepserve", "INVALID_REQUEST")
    [violation] = bad.field_violations
    assert (violation.field, violation.description) == ("sampling.n", "must be 1")
    trailers = dict(trailers_of(Exhausted("full", 2500), 8))
    assert (trailers[RETRY_AFTER_KEY], trailers[PUSHBACK_KEY]) == ("2500", "2500")
    full = status_pb2.Status.FromString(trailers[DETAILS_KEY])  # type: ignore[arg-type]
    retry = error_details_pb2.RetryInfo()
    assert full.details[1].Unpack(retry)
    assert retry.retry_delay.ToMilliseconds() == 2500


@pytest.mark.parametrize(
    ("code", "text", "kind", "told"),
    [
        ("INVALID_ARGUMENT", "sampling.n: must be 1", InvalidRequest, "sampling.n: must be 1"),
        ("OUT_OF_RANGE", "offset: beyond", OutOfRange, "offset: beyond"),
        ("NOT_FOUND", "gone", NotFound, "gone"),
        ("UNAVAILABLE", "refused", Unavailable, "refused"),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", TimedOut, "Deadline Exceeded"),
        ("FAILED_PRECONDITION", "anew", StepserveError, "FAILED_PRECONDITION: anew"),
        ("UNIMPLEMENTED", "Method not found!", StepserveError, "UNIMPLEMENTED: Method not found!"),
    ],
)
@pytest.mark.parametrize("trailers", [(), ((DETAILS_KEY, b"\xff no message"),)])
def test_without_details_the_code_tells(
    code: str, text: str, kind: type[StepserveError], told: str, trailers: Trailers
) -> None:
    error = from_status(Ended(code, text, trailers))
    assert isinstance(error, kind)
    assert str(error).startswith(told)
    assert isinstance(from_status(Ended("DEADLINE_EXCEEDED", "")), TimeoutError)
