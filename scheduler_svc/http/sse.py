"""Server-sent events: a stream of them as one answer, in the task that its request has."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from math import inf
from time import monotonic
from typing import Any

from starlette.types import Message, Receive, Scope, Send

from scheduler_svc.http.as_json import as_json
from scheduler_svc.http.errors import ApiError, api_error

DONE = b"data: [DONE]\n\n"
# Proxies cut off what says nothing for a minute.
SILENCE_S = 15.0
_COMMENT_TIMEOUT_S = 0.1
_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)


def event(payload: Any, event_id: str = "", name: str = "") -> bytes:
    """Return one event, with its id and name where it has them."""
    head = f"id: {event_id}\n" if event_id else ""
    head += f"event: {name}\n" if name else ""
    return b"%bdata: %b\n\n" % (head.encode(), as_json(payload))


class OpenStreams:
    """The streams of a process. ``break_silence`` is to be called now and then."""

    def __init__(self) -> None:
        self._streams: set[EventStream] = set()

    def add(self, stream: EventStream) -> None:
        self._streams.add(stream)

    def discard(self, stream: EventStream) -> None:
        self._streams.discard(stream)

    async def break_silence(self) -> None:
        """Send a comment where nothing was sent for a while and the client reads."""
        for stream in list(self._streams):
            if monotonic() - stream.sent_s > SILENCE_S:
                await stream.say_something()


class EventStream:
    """An answer made of chunks, each of which is whole events.

    Nothing is sent ahead of what the client reads: while it does not, ``chunks`` waits. An
    error in it is the stream's last event.
    """

    status_code = 200

    def __init__(
        self,
        chunks: AsyncGenerator[bytes, None],
        streams: OpenStreams,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._chunks = chunks
        self._streams = streams
        self._headers = [(k.encode(), v.encode()) for k, v in (headers or {}).items()]
        self._send: Send | None = None
        self.sent_s = monotonic()

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Send all of it."""
        self._send = send
        async with aclosing(self._chunks) as chunks:
            await send(
                {
                    "type": "http.response.start",
                    "status": 200,
                    "headers": [*_HEADERS, *self._headers],
                }
            )
            self._streams.add(self)
            try:
                async for chunk in chunks:
                    self.sent_s = inf  # Who does not read needs no comments.
                    await send(_part(chunk))
                    self.sent_s = monotonic()
            except Exception as error:
                await send(_part(error_event(api_error(error))))
            finally:
                self._streams.discard(self)
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def say_something(self) -> None:
        """Send what no client takes for an event."""
        self.sent_s = monotonic()
        if self._send is not None:
            # It may end meanwhile.
            with contextlib.suppress(TimeoutError, RuntimeError):
                async with asyncio.timeout(_COMMENT_TIMEOUT_S):
                    await self._send(_part(b": waiting\n\n"))


def _part(body: bytes) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": True}


def error_event(error: ApiError) -> bytes:
    """Return the event that says why a stream ends here."""
    return event({"error": error.body})
