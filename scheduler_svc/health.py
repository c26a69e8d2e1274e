"""The health of a process that serves nothing else: whether its event loop still turns."""

from __future__ import annotations

from grpc_health.v1 import health, health_pb2


async def process_health() -> health.aio.HealthServicer:
    """Return it: serving, by no name, for as long as anything is answered."""
    servicer = health.aio.HealthServicer()
    await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    return servicer
