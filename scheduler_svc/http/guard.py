"""HTTP/1.1 connections that a client can't hold for nothing, nor fill with heads without end."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from httptools import HttpParserError
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from scheduler_svc.http.errors import INVALID
from scheduler_svc.http.loss import Loss, tell_of

MAX_HEAD_BYTES = 64 * 1024
MAX_HEADERS = 128
# From the first byte of a request, or of the connection, to the end of its head.
HEAD_TIMEOUT_S = 10.0
# Of a body that was answered already: a client that still sends it gets to read the answer.
MAX_IGNORED_BYTES = 256 * 1024 * 1024
# What waits here for a client that does not read, beside the one piece that goes beyond it; the
# kernel's buffer is another's memory, and keeps who does read busy.
MAX_UNSENT_BYTES = 16 * 1024


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's, with bounds on a request's head, and with news of lost connections."""

    _timer: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _ignored_bytes = 0
    _is_in_head = True
    _has_head = False  # whether the last data completed one

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=MAX_UNSENT_BYTES)
        self._loss = Loss()
        self._begin_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_timer()
        super().connection_lost(exc)
        self._loss.happen()

    def data_received(self, data: bytes) -> None:
        if self._is_in_head and self._timer is None:
            self._begin_head()
        was_in_head, self._has_head = self._is_in_head, False
        super().data_received(data)
        if was_in_head and not self._has_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                self._refuse(431, "the request's head is too large")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        tell_of(self._loss, self.scope)  # type: ignore[arg-type]
        self._is_in_head, self._head_bytes = True, 0

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._head_bytes += len(name) + len(value)
        if len(self.headers) > MAX_HEADERS or self._head_bytes > MAX_HEAD_BYTES:
            raise HttpParserError("too many or too large headers")

    def on_headers_complete(self) -> None:
        self._is_in_head, self._has_head, self._head_bytes = False, True, 0
        self._end_timer()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if self.cycle.response_complete:
            self._ignored_bytes += len(body)
            if self._ignored_bytes > MAX_IGNORED_BYTES:
                self.transport.close()
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._is_in_head = True

    def send_400_response(self, msg: str) -> None:
        """Answer as every other error is answered."""
        self._refuse(400, msg)

    def _begin_head(self) -> None:
        self._end_timer()
        self._timer = self.loop.call_later(HEAD_TIMEOUT_S, self._head_is_late)

    def _end_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _head_is_late(self) -> None:
        self._timer = None
        if not self.transport.is_closing():
            self._refuse(408, "the request's head took too long")

    def _refuse(self, status: int, message: str) -> None:
        error: dict[str, Any] = {"message": message, "type": INVALID, "param": None, "code": None}
        content = json.dumps({"error": error}).encode()
        self.transport.write(
            STATUS_LINE[status]
            + b"content-type: application/json\r\nconnection: close\r\ncontent-length: "
            + str(len(content)).encode()
            + b"\r\n\r\n"
            + content
        )
        self.transport.close()
