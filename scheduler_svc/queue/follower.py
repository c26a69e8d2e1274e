"""One listener's part of the doorbell: what has moved since it last looked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass

_MAX_PENDING_IDS = 10_000


@dataclass(frozen=True, slots=True)
class News:
    """What has happened since the last ones.

    ``moved``: jobs whose logs grew or that ended. ``ended``: those of them that were
    ended by a client or a deadline, not by their lane. ``finished``: those that their lane
    ended, or an output of theirs. ``everything``: these sets are not complete, look at every
    job of interest.
    """

    moved: frozenset[str] = frozenset()
    ended: frozenset[str] = frozenset()
    finished: frozenset[str] = frozenset()
    everything: bool = False


class Follower:
    """An endless asynchronous iterator of ``News``; the first say ``everything``.

    One that does not ``hear_moved`` is told of ended jobs only. ``check`` raises where no
    more news will come.
    """

    def __init__(self, check: Callable[[], None], *, hear_moved: bool) -> None:
        self._check = check
        self.hears_moved = hear_moved
        self._forget()
        self._has_news = asyncio.Event()

    def __aiter__(self) -> Follower:
        return self

    async def __anext__(self) -> News:
        await self._has_news.wait()
        self._check()
        self._has_news.clear()
        moved, ended, finished = map(frozenset, (self._moved, self._ended, self._finished))
        news = News(moved, ended, finished, self._everything)
        self._forget()
        return news

    def add(
        self, moved: Iterable[str], ended: Iterable[str] = (), finished: Iterable[str] = ()
    ) -> None:
        if not ended and not self.hears_moved:
            return
        self._ended.update(ended)
        if self.hears_moved:
            self._moved.update(moved, ended)
            self._finished.update(finished)
        if len(self._moved) > _MAX_PENDING_IDS:
            self.lose_track()
        self._has_news.set()

    def lose_track(self) -> None:
        self._forget()
        self._everything = True
        self._has_news.set()

    def _forget(self) -> None:
        self._moved: set[str] = set()
        self._ended: set[str] = set()
        self._finished: set[str] = set()
        self._everything = False
