"""The bodies of requests: bounded in size, in time and all together, and read as JSON."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NoReturn

from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from scheduler_svc.http.errors import ApiError
from stepserve.protocol.errors import Exhausted

MAX_BODY_BYTES = 16 * 1024 * 1024
MAX_BODIES_BYTES = 256 * 1024 * 1024
BODY_TIMEOUT_S = 60.0
_RETRY_AFTER_MS = 1000


class Bodies:
    """Reads bodies; all that are read at once have at most ``max_bytes`` together."""

    def __init__(self, max_bytes: int = MAX_BODIES_BYTES) -> None:
        self._max_bytes = max_bytes
        self._num_bytes = 0

    @asynccontextmanager
    async def read(self, request: Request, max_bytes: int = MAX_BODY_BYTES) -> AsyncIterator[bytes]:
        """Yield a body; it counts until the block ends. Raises ApiError, Exhausted."""
        length = request.headers.get("content-length", "")
        if length.isdigit() and int(length) > max_bytes:
            raise _too_large(max_bytes)
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                async for chunk in request.stream():
                    self._num_bytes += len(chunk)
                    body += chunk
                    if len(body) > max_bytes:
                        raise _too_large(max_bytes)
                    if self._num_bytes > self._max_bytes:
                        raise Exhausted("too many large requests at once", _RETRY_AFTER_MS)
            yield bytes(body)
        except TimeoutError:
            raise ApiError(408, "the request's body took too long") from None
        except ClientDisconnect:
            raise ApiError(400, "the request's body was cut off") from None
        finally:
            self._num_bytes -= len(body)

    @asynccontextmanager
    async def form(
        self, request: Request, max_bytes: int, timeout_s: float
    ) -> AsyncIterator[FormData]:
        """Yield a form, its files on disk where they are large. Raises ApiError."""
        length = request.headers.get("content-length", "")
        if length.isdigit() and int(length) > max_bytes:
            raise _too_large(max_bytes)
        num_bytes = 0

        async def receive() -> Message:
            nonlocal num_bytes
            message = await request.receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > max_bytes:
                raise _too_large(max_bytes)
            return message

        bounded = Request(request.scope, receive)
        try:
            async with (
                asyncio.timeout(timeout_s),
                bounded.form(max_files=1, max_fields=16) as form,
            ):
                yield form
        except TimeoutError:
            raise ApiError(408, "the request's body took too long") from None
        except ClientDisconnect:
            raise ApiError(400, "the request's body was cut off") from None
        except HTTPException as error:
            raise ApiError(400, f"the body can't be read as a form: {error.detail}") from None


def json_object(body: bytes) -> dict[str, Any]:
    """Return the object that a body is. Raises ApiError where it is none."""
    try:
        payload = json.loads(body, parse_constant=_no_number)
        if b"\\u" in body:
            # Half a character can be written in JSON, and nowhere else.
            json.dumps(payload, ensure_ascii=False).encode()
    except RecursionError:
        raise _not_json("it is nested too deeply") from None
    except UnicodeError:
        raise _not_json("it is not UTF-8") from None
    except ValueError as error:
        # Its message quotes nothing of the body but a position.
        raise _not_json(getattr(error, "msg", "a number is too long")) from None
    if not isinstance(payload, dict):
        raise _not_json("it is no object")
    return payload


def _no_number(name: str) -> NoReturn:
    raise json.JSONDecodeError(f"{name} is no number of JSON", "", 0)


def _not_json(problem: str) -> ApiError:
    return ApiError(400, f"the body can't be read as JSON: {problem}", code="invalid_json")


def _too_large(max_bytes: int) -> ApiError:
    return ApiError(413, f"the body has more than {max_bytes} bytes", code="request_too_large")
