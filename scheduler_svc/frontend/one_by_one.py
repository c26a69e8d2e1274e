"""Work for one thread, of every tenant in turn: whose is much waits for himself."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from stepserve.protocol.errors import Exhausted

MAX_WAITING_EACH = 256
MAX_WAITING = 4096
_RETRY_AFTER_MS = 1000

T = TypeVar("T")


class OneByOne:
    """One piece of work at a time. Belongs to one event loop.

    Whoever comes waits for what he asked for himself, and for one piece of each other tenant's
    for each of his own.
    """

    def __init__(self, what: str) -> None:
        """``what`` waits, as refusals say it."""
        self._what = what
        self._thread = ThreadPoolExecutor(1, what)
        # Tenants, the next one first, and those of each that wait to be let in.
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self._is_busy = False

    async def run(self, tenant: str, work: Callable[[], T]) -> T:
        """Return what the work does, and raise what it raises.

        Raises Exhausted where too much waits of the tenant's, or of all tenants'.
        """
        await self._enter(tenant)
        # It can't be stopped: who goes away leaves it to its end.
        working = asyncio.get_running_loop().run_in_executor(self._thread, work)
        working.add_done_callback(self._done)
        return await asyncio.shield(working)

    async def _enter(self, tenant: str) -> None:
        line = self._waiting.get(tenant, ())
        num_waiting = sum(map(len, self._waiting.values()))
        if len(line) >= MAX_WAITING_EACH or num_waiting >= MAX_WAITING:
            raise Exhausted(f"too many {self._what} wait", _RETRY_AFTER_MS)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(tenant, deque()).append(turn)
        self._let_in()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._leave(tenant, turn)
            else:
                self._is_busy = False  # it was let in meanwhile
                self._let_in()
            raise

    def _leave(self, tenant: str, turn: asyncio.Future[None]) -> None:
        line = self._waiting.get(tenant, deque())
        if turn in line:
            line.remove(turn)
        if not line:
            self._waiting.pop(tenant, None)

    def _let_in(self) -> None:
        while self._waiting and not self._is_busy:
            tenant, line = self._waiting.popitem(last=False)
            turn = line.popleft()
            if line:
                self._waiting[tenant] = line
            if not turn.cancelled():
                self._is_busy = True
                turn.set_result(None)

    def _done(self, working: asyncio.Future[T]) -> None:
        if not working.cancelled():
            working.exception()  # Somebody has read it, also where who asked is gone.
        self._is_busy = False
        self._let_in()
