"""The sockets that connections come by, and the certificates that they are met with."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import ssl
from collections.abc import Callable

from stepserve.protocol.errors import StepserveError
from stepserve.tls.server import ServerTls

log = logging.getLogger(__name__)

MAX_WAITING_CONNECTIONS = 2048
# For a client's part of a handshake; the head of a request has its own time after that.
HANDSHAKE_TIMEOUT_S = 10.0
LOOK_INTERVAL_S = 1.0


class Listener:
    """Accepts connections, each for a ``protocol`` of its own.

    When certificates change, another server takes over the same sockets: no connection is
    refused meanwhile, and those that are there go on.
    """

    def __init__(
        self, protocol: Callable[[], asyncio.Protocol], tls: ServerTls | None = None
    ) -> None:
        self._protocol = protocol
        self._tls = tls
        self._servers: list[asyncio.Server] = []

    async def open(self, host: str, port: int) -> str:
        """Listen on ``host:port`` (0: any free port); return the address as HOST:PORT.

        Raises StepserveError where it is taken.
        """
        bare = host.strip("[]")
        context = self._tls.context() if self._tls is not None else None
        try:
            server = await asyncio.get_running_loop().create_server(
                self._protocol,
                bare,
                port,
                backlog=MAX_WAITING_CONNECTIONS,
                ssl=context,
                ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S if context else None,
            )
        except OSError as error:
            in_use = error.errno == errno.EADDRINUSE
            reason = "is it in use?" if in_use else error.strerror
            raise StepserveError(f"can't serve HTTP on {host}:{port}: {reason}") from error
        self._servers = [server]
        named = f"[{bare}]" if ":" in bare else bare
        return f"{named}:{int(server.sockets[0].getsockname()[1])}"

    async def run(self) -> None:
        """Take new certificates as they come, until cancelled."""
        while self._tls is not None:
            await asyncio.sleep(LOOK_INTERVAL_S)
            context = self._tls.new_context()
            if context is not None:
                await self._renew(context)

    def close(self) -> None:
        """Accept no more connections."""
        for server in self._servers:
            server.close()

    async def _renew(self, context: ssl.SSLContext) -> None:
        """Let servers with another context take the sockets; the old ones go where that works."""
        fresh: list[asyncio.Server] = []
        try:
            for server in self._servers:
                fresh += [await self._beside(each, context) for each in server.sockets]
        except OSError as error:
            log.error("certificates are not renewed for HTTP: %s", error)
            fresh, self._servers = self._servers, fresh
        for server in self._servers:
            server.close()
        self._servers = fresh

    async def _beside(self, listening: socket.socket, context: ssl.SSLContext) -> asyncio.Server:
        """Return another server of the same socket."""
        same = socket.socket(fileno=os.dup(listening.fileno()))
        return await asyncio.get_running_loop().create_server(
            self._protocol,
            sock=same,
            backlog=MAX_WAITING_CONNECTIONS,
            ssl=context,
            ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S,
        )
