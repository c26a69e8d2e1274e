"""The HTTP server: sockets, connections, and their end."""

from __future__ import annotations

import asyncio
import errno
import socket

from uvicorn.config import Config
from uvicorn.server import ServerState

from scheduler_svc.frontend.front_ends import FrontEnds
from scheduler_svc.http.app import App
from scheduler_svc.http.guard import GuardedProtocol
from stepserve.metrics.exposition import Exposition
from stepserve.protocol.errors import StepserveError

DEFAULT_PORT = 8000
KEEP_ALIVE_S = 60
STOP_GRACE_S = 0.5
MAX_WAITING_CONNECTIONS = 2048
PULSE_S = 5.0


class HttpServer:
    """Serves the front ends in the running loop; signals are the process's own affair."""

    def __init__(self, front_end: FrontEnds, metrics: Exposition | None = None) -> None:
        """``metrics``: what ``/metrics`` tells, HTTP's own added; without it, those alone."""
        self._app = App(front_end, metrics or Exposition("stepserve"))
        self._state = ServerState()
        self._server: asyncio.Server | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, host: str, port: int) -> str:
        """Serve on ``host:port`` (0: any free port); return the address as HOST:PORT.

        Raises StepserveError where it is taken.
        """
        config = Config(
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
        config.load()

        def protocol() -> asyncio.Protocol:
            return GuardedProtocol(config, self._state, {}, asyncio.get_running_loop())

        try:
            self._server = await asyncio.get_running_loop().create_server(
                protocol, host.strip("[]"), port, backlog=MAX_WAITING_CONNECTIONS
            )
        except OSError as error:
            in_use = error.errno == errno.EADDRINUSE
            reason = "is it in use?" if in_use else error.strerror
            raise StepserveError(f"can't serve HTTP on {host}:{port}: {reason}") from error
        self._tasks = [
            asyncio.create_task(self._break_silences(), name="http-pulse"),
            asyncio.create_task(self._app.runner.run(), name="http-batches"),
        ]
        bare = host.strip("[]")
        named = f"[{bare}]" if ":" in bare else bare
        return f"{named}:{_port_of(self._server)}"

    async def stop(self) -> None:
        """Stop serving; open streams are cut off after a short grace. Jobs go on."""
        if self._server is not None:
            self._server.close()
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


def _port_of(server: asyncio.Server) -> int:
    sockets: tuple[socket.socket, ...] = tuple(server.sockets)
    return int(sockets[0].getsockname()[1])
