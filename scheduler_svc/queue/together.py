"""Scripts that are asked for while others are on their way go together, in one write.

A call costs a client more than Redis: of a burst, all that wait share what is the same for each.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scheduler_svc.queue.link import Full
from scheduler_svc.queue.resp import Argument, num_arguments
from scheduler_svc.queue.shard import Shard
from stepserve.protocol.errors import Unavailable

# So much goes in one write: others' answers wait for it, and it is copied whole.
MAX_TOGETHER, MAX_BYTES = 32, 1024 * 1024


@dataclass(frozen=True, slots=True)
class _Asked:
    keys: Sequence[str]
    args: Sequence[Argument]
    answer: asyncio.Future[Any]

    @property
    def num_bytes(self) -> int:
        return sum(len(each) for each in self.args if isinstance(each, str | bytes))


class Together:
    """Runs one durable script of a shard for all who ask. One write at a time is on its way.

    Whatever is run must bear being run again: where a write fails, each is tried alone, so that
    what is wrong with one is no other's trouble.
    """

    def __init__(self, shard: Shard, script: str) -> None:
        self._shard = shard
        self._script = script
        self._waiting: deque[_Asked] = deque()
        self._sending: asyncio.Task[None] | None = None

    async def run(self, keys: Sequence[str], args: Sequence[Argument]) -> Any:
        """Return the script's answer. Raises as ``Shard.run`` does.

        Of a replicated write, what was acknowledged is asked on its own connection: it goes alone.
        """
        if self._shard.limits.durability == "replicated":
            return await self._shard.run(self._script, keys, args, durable=True)
        asked = _Asked(keys, args, asyncio.get_running_loop().create_future())
        self._waiting.append(asked)
        if self._sending is None:
            self._sending = asyncio.create_task(self._send(), name=f"together-{self._script}")
        return await asked.answer

    async def _send(self) -> None:
        try:
            while self._waiting:
                await self._run(self._next())
        finally:
            self._sending = None

    def _next(self) -> list[_Asked]:
        """Return those that go next; one at least."""
        some: list[_Asked] = []
        num_bytes = 0
        while self._waiting and len(some) < MAX_TOGETHER and num_bytes < MAX_BYTES:
            some.append(self._waiting.popleft())
            num_bytes += some[-1].num_bytes
        return some

    async def _run(self, some: Sequence[_Asked]) -> None:
        try:
            answers = await self._answers(some)
        except Unavailable as error:
            for asked in some:
                _refuse(asked, error)
            return
        if answers is None:
            for asked in some:
                await self._run_alone(asked)
            return
        for asked, answer in zip(some, answers, strict=True):
            _tell(asked, answer)

    async def _answers(self, some: Sequence[_Asked]) -> Sequence[Any] | None:
        """Return everybody's; None where they can't be had together."""
        if len(some) < 2:
            return None
        sha = self._shard.scripts[self._script].sha
        commands = [("EVALSHA", sha, num_arguments(a.keys), *a.keys, *a.args) for a in some]
        try:
            return await self._shard.link.pipeline(commands)
        except Exception as error:
            if isinstance(error, Unavailable) and not isinstance(error, Full):
                raise
            # One of them is broken, the script is not known yet, or there was room for some.
            return None

    async def _run_alone(self, asked: _Asked) -> None:
        try:
            answer = await self._shard.run(self._script, asked.keys, asked.args, durable=True)
        except Exception as error:
            _refuse(asked, error)
        else:
            _tell(asked, answer)


def _tell(asked: _Asked, answer: Any) -> None:
    if not asked.answer.done():
        asked.answer.set_result(answer)


def _refuse(asked: _Asked, error: Exception) -> None:
    if not asked.answer.done():
        asked.answer.set_exception(error)
