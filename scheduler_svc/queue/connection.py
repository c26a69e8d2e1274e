"""Connections to whichever server is the primary at the time, for calls and for the doorbell."""

from __future__ import annotations

import contextlib
import re
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import (
    AskError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from scheduler_svc.queue.address import Address, Host
from scheduler_svc.queue.primary import ByCluster, BySentinels, Primary
from scheduler_svc.queue.resp import PacksFast

_MOVED_ON = (ReadOnlyError, MovedError, AskError, ClusterDownError, MasterDownError)
# In a script's error the code is in the text, and some have no type of their own.
_MOVED_ON_CODES = re.compile(r"\b(READONLY|UNBLOCKED|MASTERDOWN|CLUSTERDOWN)\b")


class NotPrimary(RedisConnectionError):
    """Who answered does not take our writes, or not any more; another connection may."""


class _FollowsPrimary(AbstractConnection):
    """A connection's part that finds its server, and leaves one that is the primary no more.

    A server that was demoted keeps its connections: without this, a pool of them would go on
    with it for as long as it lives, whoever is the primary now.
    """

    servers: Servers
    host: str
    port: int

    async def _connect(self) -> None:
        if (found := await self.servers.find()) is not None:
            self.host, self.port = found
        await super()._connect()  # type: ignore[no-untyped-call,safe-super]

    async def send_packed_command(self, *args: Any, **options: Any) -> None:
        primary = self.servers.primary
        if primary is not None and self.is_connected and primary != (self.host, self.port):
            await self.disconnect(nowait=True)
            raise NotPrimary(f"{primary[0]}:{primary[1]} is the primary now")
        await super().send_packed_command(*args, **options)

    async def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().read_response(*args, **options)
        except ResponseError as error:
            if not isinstance(error, _MOVED_ON) and not _MOVED_ON_CODES.search(str(error)):
                raise
            await self.disconnect(nowait=True)
            raise NotPrimary(str(error)) from error


class Servers:
    """The servers at an address, of which connections go to the one that has ``key``.

    ``options`` are redis-py's for a pool of them. ``primary`` is where that was when somebody
    asked last, None where there is one server and nobody to ask. Close it.
    """

    def __init__(self, address: Address, key: str, timeout_s: float) -> None:
        self._primary = _primary(address, key)
        self.primary: Host | None = None
        bases = (PacksFast, _FollowsPrimary, address.connection_class)
        self.connection_class = type("Connection", bases, {"servers": self})
        self.options: dict[str, Any] = {
            **address.connection,
            "socket_timeout": None,
            "socket_connect_timeout": timeout_s,
            "protocol": 2,
        }

    async def find(self) -> Host | None:
        """Ask who is the primary. Raises redis-py's ConnectionError where nobody knows."""
        if self._primary is not None:
            self.primary = await self._primary.find()
        return self.primary

    async def look(self) -> None:
        """Ask as well, for connections to a server that does not know that it is one no more."""
        with contextlib.suppress(RedisError, OSError):
            await self.find()

    async def close(self) -> None:
        if self._primary is not None:
            await self._primary.close()


def _primary(address: Address, key: str) -> Primary | None:
    match address.kind:
        case "sentinel":
            return BySentinels(address)
        case "cluster":
            return ByCluster(address, key)
        case "server":
            return None
