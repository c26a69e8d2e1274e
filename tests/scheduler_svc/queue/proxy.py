"""A Redis that loses answers: requests arrive and are carried out, replies do not come back."""

from __future__ import annotations

import asyncio
from types import TracebackType


class LossyProxy:
    """Forwards to a Redis at a Unix socket; loses a connection instead of a reply where told.

    ``num_losses`` replies from now on are lost; each takes its connection along. Others take
    ``delay_s``.
    """

    def __init__(self, url: str) -> None:
        self._path = url.removeprefix("unix://")
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.num_losses = 0
        self.delay_s = 0.0
        self.url = ""

    async def __aenter__(self) -> LossyProxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"redis://127.0.0.1:{port}"
        return self

    async def __aexit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, downstream = await asyncio.open_unix_connection(self._path)
        both = (
            asyncio.create_task(self._copy(reader, downstream, may_lose=False)),
            asyncio.create_task(self._copy(upstream, writer, may_lose=True)),
        )
        for task in both:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        writer.close()
        downstream.close()

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
            try:
                await sink.drain()
            except ConnectionError:  # nobody waits for it any more
                return
