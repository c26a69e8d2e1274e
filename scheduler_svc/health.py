"""The health of a process that serves nothing else: whether its event loop still turns."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from stepserve.protocol.channel import address, server_options
from stepserve.protocol.errors import StepserveError


@asynccontextmanager
async def serve_health(host: str, port: int) -> AsyncIterator[str]:
    """Serve it on ``host:port`` (0: any free port) for the time of the block; yield HOST:PORT.

    Raises StepserveError where the address is taken.
    """
    server = grpc.aio.server(options=server_options())
    servicer = health.aio.HealthServicer()
    await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    address = bind(server, host, port)
    await server.start()
    try:
        yield address
    finally:
        await server.stop(None)


def bind(server: grpc.aio.Server, host: str, port: int) -> str:
    """Let the server serve on ``host:port`` once it is started; return the address as HOST:PORT.

    Raises StepserveError where it is taken.
    """
    try:
        return address(host, server.add_insecure_port(address(host, port)))
    except RuntimeError as error:
        problem = f"can't serve on {address(host, port)}: is it in use?"
        raise StepserveError(problem) from error
