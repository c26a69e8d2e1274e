"""The lines of a batch: requests in, answers out, each in JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from scheduler_svc.access.caller import LATER_PRIORITY
from scheduler_svc.http.body import json_object
from scheduler_svc.http.errors import ApiError

MAX_LINES = 50_000
MAX_CUSTOM_ID_CHARS = 512
MAX_ERRORS = 100
# As requests say it: the lowest goes first. A line may say otherwise.
DEFAULT_PRIORITY = -LATER_PRIORITY


@dataclass(frozen=True, slots=True)
class Line:
    """One request of a batch: ``number`` counts from 1, as editors do."""

    number: int
    custom_id: str
    body: Mapping[str, Any]


def lines_of(content: bytes, endpoint: str) -> tuple[list[bytes], list[dict[str, Any]]]:
    """Return a file's lines, and what is wrong with them; empty ones do not count."""
    lines = content.splitlines()
    errors: list[dict[str, Any]] = []
    seen: set[str] = set()
    if sum(1 for line in lines if line.strip()) > MAX_LINES:
        return lines, [_error(None, f"more than {MAX_LINES} lines")]
    for number, raw in enumerate(lines, 1):
        if not raw.strip():
            continue
        try:
            line = line_of(raw, number, endpoint)
            if line.custom_id in seen:
                raise ApiError(400, f"custom_id {line.custom_id[:100]!r} stands there twice")
            seen.add(line.custom_id)
        except ApiError as error:
            errors.append(_error(number, str(error)))
        if len(errors) >= MAX_ERRORS:
            break
    if not seen and not errors:
        errors.append(_error(None, "the file has no lines"))
    return lines, errors


def line_of(raw: bytes, number: int, endpoint: str) -> Line:
    """Return a line as a request. Raises ApiError where it is none."""
    values = json_object(raw)
    custom_id, body = values.get("custom_id"), values.get("body")
    if not isinstance(custom_id, str) or not 1 <= len(custom_id) <= MAX_CUSTOM_ID_CHARS:
        raise ApiError(400, f"custom_id must have 1 to {MAX_CUSTOM_ID_CHARS} characters")
    if values.get("method", "POST") != "POST":
        raise ApiError(400, "method must be POST")
    if values.get("url", endpoint) != endpoint:
        raise ApiError(400, f"url must be the batch's endpoint, {endpoint}")
    if not isinstance(body, dict):
        raise ApiError(400, "body must be an object")
    if body.get("stream") or body.get("background"):
        raise ApiError(400, "a line is answered whole: stream and background are not possible")
    return Line(number, custom_id, {"priority": DEFAULT_PRIORITY, **body})


def answered(custom_id: str, status: int, body: Mapping[str, Any]) -> str:
    """Return the line of an answer, or of an error that a request was answered with."""
    response = {"status_code": status, "request_id": f"req_{uuid4().hex}", "body": body}
    return _line(custom_id, response, None)


def unanswered(custom_id: str, code: str, message: str) -> str:
    """Return the line of a request that nobody came to answer."""
    return _line(custom_id, None, {"code": code, "message": message})


def _line(custom_id: str, response: Any, error: Any) -> str:
    told = {
        "id": f"batch_req_{uuid4().hex}",
        "custom_id": custom_id,
        "response": response,
        "error": error,
    }
    return json.dumps(told, separators=(",", ":"))


def _error(line: int | None, message: str) -> dict[str, Any]:
    return {"code": "invalid_line", "line": line, "message": message, "param": None}


def numbers_of(lines: Sequence[bytes]) -> list[int]:
    """Return the numbers of the lines that are requests."""
    return [number for number, raw in enumerate(lines, 1) if raw.strip()]
