"""What goes wrong, in OpenAI's form: a status, and one object that says what and where."""

from __future__ import annotations

import logging
import math
import traceback
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from scheduler_svc.http.as_json import as_json
from stepserve.protocol.errors import (
    BegunAnew,
    Exhausted,
    Forbidden,
    InvalidRequest,
    NotFound,
    StepserveError,
    Unauthenticated,
    Unavailable,
)
from stepserve.protocol.job import Finish

log = logging.getLogger(__name__)

INVALID = "invalid_request_error"
SERVER = "server_error"
PERMISSION = "permission_error"
# Codes that batches go by.
BEGUN_ANEW, JOB_CANCELLED = "begun_anew", "job_cancelled"
# Said where a repeat would do again what goes on already.
NO_RETRY = {"x-should-retry": "false"}


class ApiError(StepserveError):
    """An answer that is an error: ``param`` names the field, ``code`` the kind for programs."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        kind: str = INVALID,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.openai_code = code
        self.kind = kind
        self.headers: dict[str, str] = {}

    @property
    def body(self) -> dict[str, Any]:
        """The object that the answer holds under "error"."""
        return {
            "message": str(self),
            "type": self.kind,
            "param": self.param,
            "code": self.openai_code,
        }

    def response(self) -> Response:
        """Return the whole answer."""
        return json_response({"error": self.body}, self.status, self.headers)


def json_response(
    payload: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Return an answer in JSON."""
    return Response(as_json(payload), status, headers, media_type="application/json")


def invalid(param: str, problem: str, code: str | None = None) -> ApiError:
    """Return the error of a field that is wrong."""
    return ApiError(400, f"{param}: {problem}", param=param, code=code)


def not_found(what: str, param: str | None = None) -> ApiError:
    """Return the error of something that is not here, or not this client's.

    It is told by the name that it was asked by, in the field ``param`` if it was one.
    """
    return ApiError(404, f"{what} is not known here", param=param, code="not_found")


def api_error(error: Exception, names: Mapping[str, str] | None = None) -> ApiError:
    """Return what a client is told of an error.

    ``names`` are the fields' names in this request, of those that have another one inside. What
    is no error of ours is a bug: it is logged without its message, which may quote a prompt.
    """
    match error:
        case ApiError():
            return error
        case InvalidRequest():
            return _invalid(error, names or {})
        case NotFound():
            is_model = str(error).startswith("model ")
            code, param = ("model_not_found", "model") if is_model else ("not_found", None)
            told = ApiError(404, str(error), param=param, code=code)
        case Unauthenticated():
            told = ApiError(401, str(error), code="invalid_api_key")
            told.headers = {"www-authenticate": "Bearer"}
        case Forbidden():
            told = ApiError(
                403, str(error), param=error.field, code="permission_denied", kind=PERMISSION
            )
        case BegunAnew():
            told = ApiError(409, str(error), code=BEGUN_ANEW)
        case Exhausted():
            told = ApiError(429, str(error), code="rate_limit_exceeded", kind="rate_limit_error")
            told.headers = _retry_headers(error.retry_after_ms)
        case Unavailable():
            told = ApiError(503, str(error), code="unavailable", kind=SERVER)
            told.headers = _retry_headers(error.retry_after_ms)
        case _:
            told = _bug(error)
    return told


def not_again(error: Exception) -> ApiError:
    """Return what a client is told of an error in following a job, which is there and goes on.

    Asking again would make another one.
    """
    told = api_error(error)
    told.headers = {**told.headers, **NO_RETRY}
    return told


def _bug(error: Exception) -> ApiError:
    stack = "".join(traceback.format_tb(error.__traceback__))
    log.error("a request failed with %s\n%s", type(error).__name__, stack)
    message = "an internal error; the server's log has more"
    return ApiError(500, message, code="internal_error", kind=SERVER)


def no_result(finish: Finish) -> ApiError | None:
    """Return the error of an output that came to no end of its own, None where it did."""
    if finish.reason == "cancelled":
        found = ApiError(409, finish.message or "the job was cancelled", code=JOB_CANCELLED)
    elif finish.reason == "deadline":
        found = ApiError(504, finish.message, code="deadline_exceeded", kind=SERVER)
    elif finish.reason == "error":
        found = ApiError(500, finish.message, code="job_failed", kind=SERVER)
    else:
        return None
    found.headers = dict(NO_RETRY)
    return found


def _invalid(error: InvalidRequest, names: Mapping[str, str]) -> ApiError:
    inner = error.field.removeprefix("sampling.")
    root = inner.partition("[")[0].partition(".")[0]
    param = names.get(inner) or names.get(root, root) + inner[len(root) :]
    problem = str(error).removeprefix(f"{error.field}: ")
    code = "context_length_exceeded" if "context" in problem else None
    if error.field == "idempotency_key":
        code = "idempotency_key_in_use"
    return invalid(param, problem, code)


def _retry_headers(after_ms: int) -> dict[str, str]:
    return {"retry-after": str(math.ceil(after_ms / 1000)), "retry-after-ms": str(after_ms)}
