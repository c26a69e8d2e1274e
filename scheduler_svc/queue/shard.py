"""One model's part of Redis: the link, its keys and its scripts together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scheduler_svc.queue.keys import Keys
from scheduler_svc.queue.limits import QueueLimits
from scheduler_svc.queue.link import RedisLink
from scheduler_svc.queue.resp import Argument, Packed
from scheduler_svc.queue.scripts import Script


@dataclass(frozen=True, slots=True)
class Shard:
    """What every part of the queue works with.

    ``broken_leases``: workers whose leases cannot be read; that was said of them.
    """

    link: RedisLink
    keys: Keys
    limits: QueueLimits
    scripts: Mapping[str, Script]
    broken_leases: set[str] = field(default_factory=set)

    async def run(
        self,
        name: str,
        keys: Sequence[str | Packed],
        args: Sequence[Argument],
        *,
        durable: bool = False,
    ) -> Any:
        """Runs a script of queue.lua; its section says what it answers."""
        return await self.link.run(self.scripts[name], keys, args, durable=durable)

    async def now_s(self) -> float:
        """The time by Redis's clock: seconds since the epoch."""
        seconds, microseconds = await self.link.call("TIME")
        return float(seconds) + float(microseconds) / 1e6

    async def due(self, index: str, until: float, limit: int, since: str = "-inf") -> list[str]:
        """The first members of a sorted set, of scores from ``since`` to ``until``."""
        members = await self.link.call(
            "ZRANGEBYSCORE", index, since, f"{until:.6f}", "LIMIT", 0, limit
        )
        return [member.decode() for member in members]
