"""A Redis that loses answers: requests arrive and are carried out, replies do not come back."""

from __future__ import annotations

import asyncio

from stepserve_bench.chaos.forwarder import Forwarder, until_one_ends


class LossyProxy(Forwarder):
    """Forwards to a Redis at a Unix socket; loses a connection instead of a reply where told.

    ``num_losses`` replies from now on are lost; each takes its connection along. Others take
    ``delay_s``.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        self._path = url.removeprefix("unix://")
        self.num_losses = 0
        self.delay_s = 0.0

    @property
    def url(self) -> str:
        return f"redis://{self.address}"

    async def forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, downstream = await asyncio.open_unix_connection(self._path)
        try:
            await until_one_ends(
                self._copy(reader, downstream, may_lose=False),
                self._copy(upstream, writer, may_lose=True),
            )
        finally:
            downstream.transport.abort()

    async def _copy(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, may_lose: bool
    ) -> None:
        while data := await source.read(65536):
            if may_lose and self.num_losses > 0 and not data.startswith(b"+OK"):
                self.num_losses -= 1
                return
            if may_lose and self.delay_s:
                await asyncio.sleep(self.delay_s)
            sink.write(data)
            await sink.drain()
