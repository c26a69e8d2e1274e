"""gRPC servers on addresses, with TLS and without."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
from grpc_health.v1 import health, health_pb2_grpc

from stepserve.protocol.channel import address, server_options
from stepserve.protocol.errors import StepserveError

MAX_HEALTH_CALLS = 256


def bind(
    server: grpc.aio.Server,
    host: str,
    port: int,
    credentials: grpc.ServerCredentials | None = None,
) -> str:
    """Let the server serve on ``host:port`` once it is started; return the address as HOST:PORT.

    Over TLS with ``credentials``. Raises StepserveError where it is taken.
    """
    where = address(host, port)
    try:
        if credentials is None:
            return address(host, server.add_insecure_port(where))
        return address(host, server.add_secure_port(where, credentials))
    except RuntimeError as error:
        raise StepserveError(f"can't serve on {where}: is it in use?") from error


@asynccontextmanager
async def serve_health(
    host: str, port: int, servicer: health.aio.HealthServicer
) -> AsyncIterator[str]:
    """Serve a health alone on ``host:port`` (0: any free port), without TLS; yield HOST:PORT.

    Raises StepserveError where the address is taken.
    """
    server = grpc.aio.server(options=server_options(), maximum_concurrent_rpcs=MAX_HEALTH_CALLS)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    where = bind(server, host, port)
    await server.start()
    try:
        yield where
    finally:
        await server.stop(None)
