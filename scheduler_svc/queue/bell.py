"""The doorbell: one reader per process tells any number of followers what moved.

The doorbell says only *which* jobs moved; what they hold is read from their logs. So
a follower that is slow needs no buffer, only a set of job ids, and when that grows
past its bound, or entries were trimmed before they were read, or the connection was
lost, it is told that everything may have moved.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from scheduler_svc.queue.connection import Servers
from scheduler_svc.queue.follower import Follower
from scheduler_svc.queue.keys import Keys
from scheduler_svc.queue.link import unavailable_when_down
from stepserve.protocol.errors import Unavailable

_BLOCK_MS = 2000
_MAX_ENTRIES = 512
# Streams stand still until it rings again.
_PAUSE_S = 0.1

log = logging.getLogger(__name__)


class Bell:
    """Reads the doorbell stream with one connection of its own, from the first need on.

    ``connected`` is awaited whenever that has come about, and before anybody is told.
    """

    def __init__(
        self,
        servers: Servers,
        keys: Keys,
        timeout_s: float,
        connected: Callable[[], Awaitable[None]],
    ) -> None:
        self._keys = keys
        self._connected = connected
        pool = ConnectionPool(
            **servers.options,
            connection_class=servers.connection_class,
            retry=Retry(NoBackoff(), 0),
        )
        # A bare connection: a pool would replace a lost one unnoticed, and behind a
        # restart the entries' numbers may have gone back.
        self._connection: Callable[[], AbstractConnection] = pool.make_connection
        self._timeout_s = _BLOCK_MS / 1000 + timeout_s
        self._followers: weakref.WeakSet[Follower] = weakref.WeakSet()
        self._arrived = asyncio.Event()
        self._handed_over = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None
        self._listening = False
        self.num_arrivals = self.num_handed_over = 0

    def follow(self, *, hear_moved: bool = True) -> Follower:
        self._start()
        follower = Follower(self.raise_failure, hear_moved=hear_moved)
        self._followers.add(follower)
        if self._listening:
            follower.lose_track()
        return follower

    async def wait_arrivals(self, seen: int, timeout_s: float) -> None:
        """Returns when jobs have arrived since ``num_arrivals`` was ``seen``, or in time."""
        self._start()
        try:
            async with asyncio.timeout(timeout_s):
                while self.num_arrivals == seen:
                    self.raise_failure()
                    await self._arrived.wait()
        except TimeoutError:
            return

    async def wait_handed_over(self, seen: int, timeout_s: float) -> None:
        """Returns when a worker was handed over since ``num_handed_over`` was ``seen``, or in time.

        Never raises: who waits looks again in any case.
        """
        self._start()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self.num_handed_over == seen:
                    await self._handed_over.wait()

    def raise_failure(self) -> None:
        if self._failure is not None:
            raise RuntimeError("the doorbell's reader has failed") from self._failure

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="doorbell")

    async def _run(self) -> None:
        is_away = False
        while True:
            connection = self._connection()
            try:
                with unavailable_when_down():
                    heard = int(await self._ask(connection, "GET", self._keys.rings) or 0)
                    await self._connected()
                    self._listening = True
                    self._lose_track()
                    is_away = False
                    while True:
                        heard = await self._listen(connection, heard)
            except Unavailable as error:
                if not is_away:
                    log.warning("doorbell: %s; trying again until it rings", error)
                is_away = True
            except Exception as error:
                self._failure = error
                self._lose_track()
                return
            finally:
                self._listening = False
                await connection.disconnect(nowait=True)
            await asyncio.sleep(_PAUSE_S)

    async def _listen(self, connection: AbstractConnection, heard: int) -> int:
        """Waits for entries after number ``heard``, passes them on; the last one's number."""
        reply = await self._ask(
            connection,
            "XREAD",
            "COUNT",
            _MAX_ENTRIES,
            "BLOCK",
            _BLOCK_MS,
            "STREAMS",
            self._keys.bell,
            f"{heard}-0",
        )
        ids: dict[bytes, list[str]] = {b"queued": [], b"moved": [], b"ended": []}
        finished: list[str] = []
        hears_moved = any(follower.hears_moved for follower in self._followers)
        for entry_id, (kind, job_ids) in reply[0][1] if reply else ():
            number = int(entry_id.partition(b"-")[0])
            if number != heard + 1:
                self._lose_track()
            heard = number
            if hears_moved or kind != b"moved":
                named, _, last = job_ids.decode().partition("\0\0")
                ids[kind] += named.split("\0")
                if kind == b"queued" and last:
                    self._hand_over()
                else:
                    finished += filter(None, last.split("\0"))
        if ids[b"queued"]:
            self._arrive()
        if ids[b"moved"] or ids[b"ended"]:
            for follower in self._followers:
                follower.add(ids[b"moved"], ids[b"ended"], finished)
        return heard

    def _lose_track(self) -> None:
        for follower in self._followers:
            follower.lose_track()
        self._arrive()

    def _arrive(self) -> None:
        self.num_arrivals += 1
        self._arrived.set()
        self._arrived = asyncio.Event()

    def _hand_over(self) -> None:
        self.num_handed_over += 1
        self._handed_over.set()
        self._handed_over = asyncio.Event()

    async def _ask(self, connection: AbstractConnection, *command: str | int) -> Any:
        async with asyncio.timeout(self._timeout_s):
            await connection.send_command(*command)  # connects where it must
            return await connection.read_response()
