"""The gRPC server of the api: the service, its health, and reflection."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from scheduler_svc.api.door import DoorInterceptor
from scheduler_svc.api.service import InferenceService
from scheduler_svc.api.statuses import StatusInterceptor
from scheduler_svc.frontend.front_end import Readiness
from scheduler_svc.frontend.front_ends import FrontEnds
from scheduler_svc.settings import ApiSettings
from stepserve.protocol.channel import server_options
from stepserve.protocol.inference_rpc import add_InferenceServicer_to_server
from stepserve.protocol.inference_wire import MAX_REQUEST_BYTES, SERVICE_NAME
from stepserve.tls.binding import bind
from stepserve.tls.server import ServerTls

log = logging.getLogger(__name__)

# The health of this name tells whether jobs are taken, though no worker may be there to run them.
SUBMIT = f"{SERVICE_NAME}/Submit"
MAX_CONCURRENT_CALLS = 10_000
STOP_GRACE_S = 0.5
# How it stands is told once a second; what is older says nothing.
MAX_NEWS_AGE_S = 3.0


def _age_options(max_connection_age_s: float) -> list[tuple[str, int]]:
    """gRPC spreads the age by a tenth, and lets calls of an old connection end in their time."""
    age_ms = int(max_connection_age_s * 1000)
    return [("grpc.max_connection_age_ms", age_ms)] if age_ms else []


class ApiServer:
    """Serves ``Inference``.

    Its health, by the name of the service: SERVING while jobs are taken and a worker is driven,
    by any scheduler. By the name ``SUBMIT``: while jobs are taken, that is while Redis answers
    and has memory left, so that no client is sent here otherwise; jobs may wait for a worker.
    By no name, the process's: SERVING all the same, since starting it again would bring
    none of these back.
    """

    def __init__(
        self, front_ends: FrontEnds, settings: ApiSettings, tls: ServerTls | None = None
    ) -> None:
        self.front_ends = front_ends
        self._credentials = tls.credentials() if tls is not None else None
        self.health = health.aio.HealthServicer()
        self._server = grpc.aio.server(
            interceptors=[DoorInterceptor(front_ends.guard), StatusInterceptor()],
            options=[
                *server_options(MAX_REQUEST_BYTES),
                # Without these gRPC cancels calls by chance, long before it is full.
                ("grpc.server.max_pending_requests", MAX_CONCURRENT_CALLS),
                ("grpc.server.max_pending_requests_hard_limit", MAX_CONCURRENT_CALLS),
                *_age_options(settings.max_connection_age_s),
            ],
            maximum_concurrent_rpcs=MAX_CONCURRENT_CALLS,
        )
        service = InferenceService(front_ends)
        add_InferenceServicer_to_server(service, self._server)  # type: ignore[no-untyped-call]
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self._server)
        if settings.reflection:
            names = (SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, self._server)
        self._running: asyncio.Task[None] | None = None
        self._takes_jobs = False
        self._told_s = 0.0

    @property
    def problem(self) -> str:
        """Why no job is taken now; empty where jobs are. May be asked by any thread."""
        if time.monotonic() - self._told_s > MAX_NEWS_AGE_S:
            return "it is not known whether Redis serves"
        return "" if self._takes_jobs else "Redis does not answer, or has no memory left"

    async def start(self, host: str, port: int) -> str:
        """Serve on ``host:port`` (0: any free port); return the address as HOST:PORT.

        Raises StepserveError where it is taken.
        """
        address = bind(self._server, host, port, self._credentials)
        for name in ("", SUBMIT, SERVICE_NAME):
            await self._set_health(name, not name)
        self._running = asyncio.create_task(self._run(), name="api-front-end")
        await self._server.start()
        return address

    async def stop(self) -> None:
        """Stop serving; open streams are cut off after a short grace. Jobs go on."""
        await self.front_ends.close()
        await self.health.enter_graceful_shutdown()
        await self._server.stop(STOP_GRACE_S)
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    async def _run(self) -> None:
        failure: Exception | None = None
        try:
            await self.front_ends.run(self._tell)
        except Exception as error:
            failure = error
        for name in ("", SUBMIT, SERVICE_NAME):
            await self._set_health(name, False)
        log.error("the api follows no logs any more", exc_info=failure)
        os.kill(os.getpid(), signal.SIGTERM)  # a new process can

    async def _tell(self, now: Readiness) -> None:
        self._takes_jobs, self._told_s = now.takes_jobs, time.monotonic()
        await self._set_health(SUBMIT, now.takes_jobs)
        await self._set_health(SERVICE_NAME, now.computes)

    async def _set_health(self, name: str, is_serving: bool) -> None:
        status = health_pb2.HealthCheckResponse.ServingStatus.Value(
            "SERVING" if is_serving else "NOT_SERVING"
        )
        await self.health.set(name, status)
