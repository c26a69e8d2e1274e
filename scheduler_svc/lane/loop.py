"""The shell's two halves around a core: an inbox of events, and ordered destinations."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from scheduler_svc.core.events import Event

T = TypeVar("T")


class Inbox:
    """Events for one core. Taken all at once, so that many are answered by one plan."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._ready = asyncio.Event()

    def put(self, event: Event) -> None:
        self._events.append(event)
        self._ready.set()

    async def wait(self) -> None:
        """Wait until there is an event."""
        await self._ready.wait()

    def take(self) -> list[Event]:
        """Return all events there are now, oldest first; maybe none."""
        self._ready.clear()
        events, self._events = self._events, []
        return events


class Destination(Generic[T]):
    """One ordered task that does the IO of one kind, so that performing never waits.

    An item leaves the queue only when it is delivered: what a failure interrupted can
    be flushed afterwards. The core bounds the queue: it plans so many steps ahead of
    reports, and so many ahead of commits, and no further.
    """

    def __init__(self, deliver: Callable[[T], Awaitable[None]]) -> None:
        self._deliver = deliver
        self._items: deque[T] = deque()
        self._ready = asyncio.Event()

    def put(self, item: T) -> None:
        self._items.append(item)
        self._ready.set()

    async def run(self) -> None:
        """Deliver one after another until cancelled; a failure ends it."""
        while True:
            await self._ready.wait()
            self._ready.clear()
            await self.flush()

    async def flush(self) -> None:
        """Deliver what is queued now."""
        while self._items:
            await self._deliver(self._items[0])
            self._items.popleft()
