"""The HTTP server: sockets, connections, and their end."""

from __future__ import annotations

import asyncio

from uvicorn.config import Config
from uvicorn.server import ServerState

from scheduler_svc.frontend.front_ends import FrontEnds
from scheduler_svc.http.app import App
from scheduler_svc.http.guard import GuardedProtocol
from scheduler_svc.http.listener import Listener
from stepserve.metrics.exposition import Exposition
from stepserve.tls.server import ServerTls

DEFAULT_PORT = 8000
KEEP_ALIVE_S = 60
STOP_GRACE_S = 0.5
PULSE_S = 5.0


class HttpServer:
    """Serves the front ends in the running loop; signals are the process's own affair."""

    def __init__(
        self,
        front_end: FrontEnds,
        metrics: Exposition | None = None,
        tls: ServerTls | None = None,
    ) -> None:
        """``metrics``: what ``/metrics`` tells, HTTP's own added; without it, those alone."""
        self._app = App(front_end, metrics or Exposition("stepserve"))
        self._state = ServerState()
        self._listener = Listener(self._protocol, tls)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, host: str, port: int) -> str:
        """Serve on ``host:port`` (0: any free port); return the address as HOST:PORT.

        Raises StepserveError where it is taken.
        """
        self._config = Config(
            self._app.asgi(),
            http=GuardedProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",  # who sends no HTTP is told so; it is nothing to write down
            access_log=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            server_header=False,
        )
        self._config.load()
        address = await self._listener.open(host, port)
        self._tasks = [
            asyncio.create_task(self._break_silences(), name="http-pulse"),
            asyncio.create_task(self._app.runner.run(), name="http-batches"),
            asyncio.create_task(self._listener.run(), name="http-certificates"),
        ]
        return address

    def _protocol(self) -> asyncio.Protocol:
        return GuardedProtocol(self._config, self._state, {}, asyncio.get_running_loop())

    async def stop(self) -> None:
        """Stop serving; open streams are cut off after a short grace. Jobs go on."""
        self._listener.close()
        for connection in list(self._state.connections):
            connection.shutdown()
        if self._state.tasks:
            await asyncio.wait(set(self._state.tasks), timeout=STOP_GRACE_S)
        for connection in list(self._state.connections):
            if isinstance(connection, GuardedProtocol):
                connection.transport.abort()
        await asyncio.gather(*self._state.tasks, return_exceptions=True)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _break_silences(self) -> None:
        while True:
            await asyncio.sleep(PULSE_S)
            await self._app.streams.break_silence()
