"""The worker's gRPC server: Describe and Steps, health, reflection, and an orderly end."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from stepserve.metrics.status import Status
from stepserve.process.collector import calm_collector
from stepserve.protocol import step_wire
from stepserve.protocol.channel import server_options
from stepserve.protocol.errors import InvalidRequest, StepFailed, StepRefused, StepserveError
from stepserve.protocol.step import Hello, StepCommand, StepReport
from stepserve.tls.binding import bind, serve_health
from stepserve.tls.server import server_tls
from worker_svc.assembled import Assembly
from worker_svc.door import FleetDoor
from worker_svc.engine import BROKEN, STUCK, Commands, Engine, StreamEnded
from worker_svc.metrics import WorkerMetrics
from worker_svc.settings import WorkerSettings

log = logging.getLogger(__name__)

# A step that takes longer than this to end is abandoned with the process.
DRAIN_TIMEOUT_S = 3.0
# For the last reports to be written, and for watchers of the health to see it change.
STOP_GRACE_S = 0.3
# How late a step that hangs, or that ends after all, shows in the health.
HEALTH_INTERVAL_S = 0.2
# A stream that has not said hello by then is ended: it only takes one of the calls.
HELLO_TIMEOUT_S = 10.0
# Streams, health watchers and single calls; more are refused.
MAX_CALLS = 64
# Reports of a stream that wait to be written; then nothing more of it is executed.
MAX_WAITING_REPORTS = 8

Context = grpc.aio.ServicerContext[Any, Any]
# What comes of each command, in their order, and last the reason why there are no more.
Reports = asyncio.Queue[asyncio.Future[StepReport] | Exception]


class StepService(step_wire.WorkerServicer):
    """worker.proto's service over an engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def Describe(self, _request: object, context: Context) -> step_wire.pb.WorkerInfo:
        try:
            return step_wire.encode_info(self._engine.describe())
        except StepserveError as error:
            await context.abort(_status(error), str(error))

    async def Steps(self, request_iterator: AsyncIterator[Any], context: Context) -> None:
        commands = Commands()
        try:
            await self._drive(request_iterator, commands, context)
        except StreamEnded:
            return
        except StepserveError as error:
            self._engine.tally.num_refused += isinstance(error, StepRefused)
            log.info("stream ended: %s", error)
            await context.abort(_status(error), str(error))
        finally:
            self._engine.leave(commands)

    async def _drive(
        self, messages: AsyncIterator[Any], commands: Commands, context: Context
    ) -> None:
        """Say hello, then answer commands in order.

        Commands are read, executed and answered side by side: the device does not wait for a
        report to be written, nor for the next command to be read.
        """
        hello = await _read_hello(messages)
        reply, kept = await self._engine.greet(hello, commands)
        await context.write(step_wire.encode_worker_message(reply))
        for report in kept:
            await context.write(step_wire.encode_worker_message(report))
        # Those of steps that are in later stages are not there to be written.
        reports: Reports = asyncio.Queue(MAX_WAITING_REPORTS + self._engine.info.num_stages - 1)
        reader = asyncio.create_task(_read_commands(messages, commands))
        executor = asyncio.create_task(self._execute(commands, reports))
        try:
            while True:
                coming = await reports.get()
                if isinstance(coming, Exception):
                    raise coming
                await context.write(step_wire.encode_worker_message(await coming))
        finally:
            reader.cancel()
            executor.cancel()

    async def _execute(self, commands: Commands, reports: Reports) -> None:
        """Begin every command, and put last the reason why there are no more."""
        try:
            while True:
                command = await commands.next()
                await reports.put(await self._engine.begin(command, commands))
        except Exception as reason:  # raised by the reader of the reports
            await reports.put(reason)


async def _read_hello(messages: AsyncIterator[Any]) -> Hello:
    try:
        async with asyncio.timeout(HELLO_TIMEOUT_S):
            message = await anext(messages, None)
    except TimeoutError:
        raise InvalidRequest("hello", f"none came within {HELLO_TIMEOUT_S:g} s") from None
    if message is None:
        raise StreamEnded
    value = step_wire.decode_lane_message(message)
    if isinstance(value, StepCommand):
        raise InvalidRequest("command", "a stream begins with a hello")
    return value


async def _read_commands(messages: AsyncIterator[Any], commands: Commands) -> None:
    try:
        async for message in messages:
            value = step_wire.decode_lane_message(message)
            if isinstance(value, Hello):
                raise InvalidRequest("hello", "a stream has one, at its beginning")
            await commands.put(value)
    except InvalidRequest as error:
        await commands.end(error)
    else:
        await commands.end(StreamEnded())


def _status(error: StepserveError) -> grpc.StatusCode:
    if isinstance(error, InvalidRequest):
        return grpc.StatusCode.INVALID_ARGUMENT
    if isinstance(error, StepRefused):
        return grpc.StatusCode.FAILED_PRECONDITION
    if isinstance(error, StepFailed):
        return grpc.StatusCode.ABORTED
    return grpc.StatusCode.UNAVAILABLE


class WorkerServer:
    """A worker on a port, until it is stopped or broken. Use inside its event loop.

    Its health is SERVING while steps take no longer than their lane lets them run.
    """

    def __init__(self, settings: WorkerSettings, assembly: Assembly) -> None:
        self._settings = settings
        self._lost = assembly.lost
        self._engine = Engine(assembly.runner, assembly.info, assembly.launch_ahead)
        self.metrics = WorkerMetrics(self._engine)
        self._health = health.aio.HealthServicer()
        self._watcher: asyncio.Task[None] | None = None
        self._health_alone: AsyncExitStack = AsyncExitStack()
        self.health_address = ""
        tls, token = server_tls(settings.fleet_files), settings.token()
        self._credentials = tls.credentials() if tls is not None else None
        self._server = grpc.aio.server(
            options=server_options(),
            maximum_concurrent_rpcs=MAX_CALLS,
            interceptors=[FleetDoor(token)] if token is not None else [],
        )
        step_wire.add_WorkerServicer_to_server(  # type: ignore[no-untyped-call]
            StepService(self._engine), self._server
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if settings.reflection:
            names = (step_wire.SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, self._server)

    @property
    def failure(self) -> asyncio.Future[str]:
        """Set when a step failed for a reason that is no refusal: one line saying which."""
        return self._engine.failure

    @property
    def is_busy(self) -> bool:
        """Whether a step is being executed."""
        return self._engine.is_busy

    @property
    def problem(self) -> str:
        """Why it should be started again; empty where it should not. For any thread."""
        if self._engine.failure.done():
            return BROKEN
        return STUCK if self._engine.is_stuck else ""

    async def start(self) -> str:
        """Serve; return the address, HOST:PORT. Raises StepserveError where it is taken."""
        settings = self._settings
        where = bind(self._server, settings.host, settings.port, self._credentials)
        if settings.health_port is not None:
            alone = serve_health(settings.host, settings.health_port, self._health)
            self.health_address = await self._health_alone.enter_async_context(alone)
        await self._server.start()
        await self._set_health(is_serving=True)
        self._watcher = asyncio.create_task(self._watch_health())
        return where

    async def stop(self) -> None:
        """Stop accepting, and finish the running step unless that takes too long."""
        if self._watcher is not None:
            self._watcher.cancel()
        await self._set_health(is_serving=False)
        await self._engine.drain(DRAIN_TIMEOUT_S)
        await self._server.stop(STOP_GRACE_S)
        await self._health_alone.aclose()

    @property
    def ready_fields(self) -> str:
        """What a ready line says of a health that is served apart."""
        return f" health={self.health_address}" if self.health_address else ""

    async def _watch_health(self) -> None:
        was_stuck = False
        while True:
            await asyncio.sleep(HEALTH_INTERVAL_S)
            is_stuck = self._engine.is_stuck
            if is_stuck is not was_stuck:
                log.warning(STUCK if is_stuck else "the step has ended after all")
                if is_stuck:
                    self._lost(STUCK)
                await self._set_health(is_serving=not is_stuck)
            was_stuck = is_stuck

    async def _set_health(self, *, is_serving: bool) -> None:
        status = health_pb2.HealthCheckResponse.ServingStatus.Value(
            "SERVING" if is_serving else "NOT_SERVING"
        )
        for name in ("", step_wire.SERVICE_NAME):
            await self._health.set(name, status)


async def serve(settings: WorkerSettings, assembly: Assembly, status: Status | None = None) -> str:
    """Serve until SIGTERM, SIGINT or a failure; return the failure in one line, "" for none.

    Raises StepserveError where the address is taken.
    """
    status = status or Status(settings)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    server = WorkerServer(settings, assembly)
    address = await server.start()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.set)
    info = assembly.info
    status.metrics.add(server.metrics, info.model)
    status.vitals.require(alive=lambda: server.problem)
    beating = asyncio.create_task(status.vitals.beat())
    calm_collector()
    where = f"worker={address}{server.ready_fields}{status.ready_field}"
    print(f"ready {where} model={info.model} blocks={info.num_blocks}", flush=True)
    server.failure.add_done_callback(lambda failure: assembly.lost(failure.result()))
    server.failure.add_done_callback(lambda _: stop.set())
    await stop.wait()
    status.vitals.end()
    await server.stop()
    beating.cancel()
    return server.failure.result() if server.failure.done() else ""
