"""Whether a Redis can keep what we promise: what it is set to do, and what that means."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from redis.exceptions import ResponseError

from scheduler_svc.queue.link import RedisLink
from stepserve.protocol.choices import Durability
from stepserve.protocol.errors import StepserveError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServerState:
    """What a server says of itself. ``appendfsync`` and the policy are "" where it does not say.

    ``is_rewritten``: its append-only file was written anew since it started, or is now.
    ``num_replicas``: those that are connected.
    """

    keeps_file: bool
    appendfsync: str
    maxmemory_policy: str
    is_rewritten: bool
    num_replicas: int = 0

    def flaws(self) -> list[str]:
        """Say what may lose jobs that were accepted."""
        said = []
        if not self.keeps_file:
            said.append("it keeps no append-only file (appendonly no)")
        if self.maxmemory_policy not in ("", "noeviction"):
            said.append(
                f"it evicts jobs when it is full (maxmemory-policy {self.maxmemory_policy})"
            )
        return said

    def flaws_of_fsync(self) -> list[str]:
        """Say what may lose jobs that were accepted when its host crashes."""
        said = self.flaws()
        if self.keeps_file and self.appendfsync not in ("", "always"):
            said.append(f"it answers before it is on disk (appendfsync {self.appendfsync})")
        return said


@dataclass(frozen=True, slots=True)
class Memory:
    """What a server uses of what it may use, in bytes; ``limit_bytes`` 0: no limit."""

    used_bytes: int
    limit_bytes: int

    @property
    def share(self) -> float:
        """0 to 1 and, since a limit may be lowered, beyond."""
        return self.used_bytes / self.limit_bytes if self.limit_bytes else 0.0


async def server_memory(link: RedisLink) -> Memory:
    """Ask. Raises Unavailable."""
    return memory_of(await link.call("INFO", "memory"))


def memory_of(info: Mapping[str, Any]) -> Memory:
    """Return what INFO says of it."""
    uncounted = info.get("mem_not_counted_for_evict", 0)
    return Memory(info["used_memory"] - uncounted, info.get("maxmemory", 0))


async def server_state(link: RedisLink) -> ServerState:
    """Ask. Raises Unavailable."""
    persistence = await link.call("INFO", "persistence")
    memory = await link.call("INFO", "memory")
    replication = await link.call("INFO", "replication")
    return ServerState(
        keeps_file=bool(persistence.get("aof_enabled")),
        appendfsync=await _setting(link, "appendfsync"),
        maxmemory_policy=str(memory.get("maxmemory_policy", "")),
        is_rewritten=_is_rewritten(persistence),
        num_replicas=int(replication.get("connected_slaves", 0)),
    )


def _is_rewritten(persistence: Mapping[str, Any]) -> bool:
    return (
        persistence.get("aof_last_rewrite_time_sec", -1) >= 0
        or bool(persistence.get("aof_rewrite_in_progress"))
        or bool(persistence.get("aof_rewrite_scheduled"))
    )


async def _setting(link: RedisLink, name: str) -> str:
    """What it is set to; "" where the server does not tell, as managed ones."""
    try:
        return str((await link.call("CONFIG GET", name)).get(name, ""))
    except ResponseError:
        return ""


async def check_server(link: RedisLink, durability: Durability) -> None:
    """Warn of what may lose jobs, and have a file that could be torn written anew.

    Raises StepserveError where the durability "fsync" is promised and can't be kept,
    Unavailable.
    """
    state = await server_state(link)
    if durability == "fsync" and (flaws := state.flaws_of_fsync()):
        raise StepserveError(
            f"durability fsync can't be promised with this Redis: {'; '.join(flaws)}; "
            "see docs/redis.md"
        )
    for flaw in state.flaws():
        log.warning("this Redis may lose accepted jobs: %s; see docs/redis.md", flaw)
    if durability == "replicated" and not state.num_replicas:
        log.warning(
            "durability replicated needs a replica, and this Redis has none: while that is so, "
            "every job is refused"
        )
    if durability == "fsync" and not state.appendfsync:
        log.warning("this Redis does not say whether appendfsync is always, as fsync needs it")
    if state.keeps_file and not state.is_rewritten:
        await _rewrite(link)


async def _rewrite(link: RedisLink) -> None:
    """Ask for the append-only file to be written anew.

    One that was cut off by a crash of the host may end in an open transaction, which the
    server would run at its next start together with what it has appended since.
    """
    try:
        await link.call("BGREWRITEAOF")
    except ResponseError as error:
        log.warning(
            "this Redis does not write its append-only file anew (%s): repair it with "
            "redis-check-aof after a crash of its host, see docs/redis.md",
            error,
        )
