"""The Redis that is broken: one that serves, one that follows it, and an address that moves."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import redis

from scheduler_svc.queue.embedded import EmbeddedRedis
from stepserve.protocol.errors import StepserveError
from stepserve_bench.chaos.link import Link

T = TypeVar("T")
POLL_S = 0.05
LAG_S = 0.3
# How a script's effects begin in the append-only file, and where a crash may cut them off.
TORN = b"*1\r\n$5\r\nMULTI\r\n*3\r\n$3\r\nSET\r\n$4\r\nto"


class RedisServer:
    """One server, and the link at which another follows it: it listens at a file only."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.embedded = EmbeddedRedis.start(directory)
        if self.embedded.pid is None:
            raise StepserveError("chaos breaks a Redis of its own: unset STEPSERVE_REDIS_URL")
        scheme, _, path = self.embedded.url.partition("://")
        if scheme != "unix":
            raise StepserveError(f"no socket can be named {directory}: set a shorter TMPDIR")
        self.path = Path(path)
        self.link = Link(path)

    @property
    def pid(self) -> int:
        assert self.embedded.pid is not None
        return self.embedded.pid

    def follow(self, primary: RedisServer) -> None:
        """Have what the other has, from now on. Raises RedisError where it does not answer."""
        host, _, port = primary.link.address.rpartition(":")
        with self._client() as client:
            client.replicaof(host, int(port))

    def promote(self) -> None:
        """Follow nobody. Raises RedisError where it does not answer."""
        with self._client() as client:
            client.replicaof("NO", "ONE")

    def is_following(self) -> bool:
        """Whether it has all that the other had a moment ago."""
        try:
            with self._client() as client:
                return bool(client.info("replication").get("master_link_status") == "up")
        except redis.RedisError:
            return False

    def _client(self) -> redis.Redis:
        return redis.Redis(unix_socket_path=str(self.path), socket_timeout=10.0)


class RedisPair:
    """Two servers of which one serves. ``url`` leads to that one: a file that is put elsewhere.

    That is what a cloud's endpoint and a Kubernetes Service do; nothing lies in between that would
    cost time. Servers end with the thread that started them: all is done in one.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._thread = ThreadPoolExecutor(1, "redis")
        self._servers: list[RedisServer] = []
        # Two that end a server at once would start each other's again.
        self._striking = asyncio.Lock()
        self.is_up = False

    @property
    def url(self) -> str:
        return f"unix://{self._directory}/serving"

    @property
    def pid(self) -> int:
        """The process that serves."""
        return self._servers[0].pid

    async def start(self, links: contextlib.AsyncExitStack) -> None:
        """Return when both run. Raises StepserveError where they don't."""
        self._directory.mkdir(parents=True)
        for name in ("0", "1"):
            server = await self._do(partial(RedisServer, self._directory / name))
            self._servers.append(server)
            await links.enter_async_context(server.link)
        self._lead_to(self._servers[0])
        await self._do(lambda: self._servers[1].follow(self._servers[0]))
        self.is_up = True

    async def until_followed(self) -> None:
        """Wait until one serves, and the other has what it has."""
        while not (await self._do(self._servers[1].is_following) and self.is_up):
            await asyncio.sleep(POLL_S)

    async def end(self, signum: signal.Signals, away_s: float, *, is_torn: bool = False) -> None:
        """End the one that serves by a signal, and start it again later.

        Where it is torn, it was in the midst of a write to its file.
        """
        async with self._striking, self._away():
            os.kill(self.pid, signum)
            await asyncio.sleep(away_s)
            if is_torn:
                self._tear_log()
            await self._run(self._servers[0])

    async def fail_over(self, after_s: float) -> None:
        """Kill the one that serves; later let the other serve, and the first follow that one.

        What was written in the moments before never reaches the other.
        """
        async with self._striking:
            await self.until_followed()
            lost, promoted = self._servers
            async with self._away():
                async with lost.link.stopped():
                    await asyncio.sleep(LAG_S)
                    os.kill(lost.pid, signal.SIGKILL)
                    lost.link.cut()
                await asyncio.sleep(after_s)
                await self._do(promoted.promote)
                self._lead_to(promoted)
                self._servers.reverse()
        await self._run(lost)
        await self._do(lambda: lost.follow(promoted))

    async def close(self) -> None:
        """End both."""
        for server in self._servers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(server.pid, signal.SIGCONT)
            await self._do(server.embedded.stop)
        self._thread.shutdown()

    @contextlib.asynccontextmanager
    async def _away(self) -> AsyncIterator[None]:
        self.is_up = False
        yield
        self.is_up = True

    def _tear_log(self) -> None:
        """Leave the beginning of a script's effects at the end of its file; it does not run."""
        logs = self._servers[0].directory.rglob("appendonly*.aof")
        with max(logs, key=lambda path: path.stat().st_mtime_ns).open("ab") as log:
            log.write(TORN)

    async def _run(self, server: RedisServer) -> None:
        """Wait until it has ended, and start it again."""
        while not await self._do(server.embedded.ensure_running):
            await asyncio.sleep(POLL_S)

    def _lead_to(self, server: RedisServer) -> None:
        """In one moment: whoever connects comes to the one or the other."""
        new = self._directory / "next"
        new.symlink_to(server.path)
        new.replace(self._directory / "serving")

    async def _do(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)
