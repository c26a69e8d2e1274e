"""A connection that can be cut, slowed down or stopped: a small TCP proxy in front of a service."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from stepserve_bench.chaos.forwarder import Forwarder, until_one_ends

CHUNK_BYTES = 65_536
# Chunks of one direction of a connection that are on their way; then no more is read.
MAX_ON_THE_WAY = 64


class Link(Forwarder):
    """Forwards what comes to ``address`` to a service at ``target``, and back.

    ``target`` is HOST:PORT, or a socket's path.

    What is stopped is held back, not lost: that is what TCP makes of a network that loses
    packets for a while.
    """

    def __init__(self, target: str) -> None:
        super().__init__()
        self._target = target
        self._delay_s = 0.0
        self._open = asyncio.Event()
        self._open.set()

    @contextlib.asynccontextmanager
    async def delayed(self, delay_s: float) -> AsyncIterator[None]:
        """Let all that is read within the block come ``delay_s`` later, in each direction."""
        self._delay_s = delay_s
        try:
            yield
        finally:
            self._delay_s = 0.0

    @contextlib.asynccontextmanager
    async def stopped(self) -> AsyncIterator[None]:
        """Let nothing through within the block, on no connection; new ones are taken."""
        self._open.clear()
        try:
            yield
        finally:
            self._open.set()

    async def forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Hand a connection on, both ways."""
        await self._open.wait()
        upstream, downstream = await self._connect()
        try:
            await until_one_ends(self._pump(reader, downstream), self._pump(upstream, writer))
        finally:
            downstream.transport.abort()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, _, port = self._target.rpartition(":")
        if not host:
            return await asyncio.open_unix_connection(self._target)
        return await asyncio.open_connection(host, int(port))

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        """Forward one direction until it ends, each chunk when it is due."""
        clock = asyncio.get_running_loop().time
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(MAX_ON_THE_WAY)

        async def read() -> None:
            with contextlib.suppress(OSError):
                while data := await source.read(CHUNK_BYTES):
                    await waiting.put((clock() + self._delay_s, data))
            await waiting.put((clock() + self._delay_s, b""))

        reading = asyncio.create_task(read())
        try:
            while True:
                due_s, data = await waiting.get()
                if (left_s := due_s - clock()) > 0:
                    await asyncio.sleep(left_s)
                await self._open.wait()
                if not data:
                    return
                sink.write(data)
                await sink.drain()
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
