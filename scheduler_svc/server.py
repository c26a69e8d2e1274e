"""One scheduler process: the api, the lanes, or both, until a signal."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import uuid
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvloop

from scheduler_svc.access.guard import Guard
from scheduler_svc.api.server import ApiServer
from scheduler_svc.fleet.lanes import Lanes
from scheduler_svc.frontend.front_end import FrontEnd, Readiness
from scheduler_svc.frontend.front_ends import FrontEnds
from scheduler_svc.health import process_health
from scheduler_svc.http.server import DEFAULT_PORT as DEFAULT_HTTP_PORT
from scheduler_svc.http.server import HttpServer
from scheduler_svc.lane.edge_room import EdgeRoom
from scheduler_svc.lane.replica import Replica
from scheduler_svc.live.broadcast import Broadcast
from scheduler_svc.metrics.scheduler_metrics import SchedulerMetrics
from scheduler_svc.queue import JobQueue, QueueLimits
from scheduler_svc.queue.address import Host
from scheduler_svc.settings import PROG, SchedulerSettings
from scheduler_svc.spans.starting import start_tracing
from scheduler_svc.text.model_card import ModelCard
from stepserve.metrics.status import Status
from stepserve.process.collector import calm_collector
from stepserve.process.logs import start_logging
from stepserve.process.redaction import redacted
from stepserve.protocol.errors import StepserveError, Unavailable
from stepserve.tls.binding import serve_health
from stepserve.tls.fleet import FleetCaller
from stepserve.tls.server import server_tls

if TYPE_CHECKING:
    from scheduler_svc.spans.tracing import Tracing

log = logging.getLogger(__name__)

DEFAULT_PORT = 50051
SWEEP_INTERVAL_S = 0.5
FIRST_SWEEP_AFTER_S = 1.0
# An expired lease that nobody took for so long goes, and its jobs wait again.
LEASE_GRACE_S = 0.5
POLL_INTERVAL_S = 0.05


@dataclass(frozen=True, slots=True)
class Running:
    """A scheduler that runs: its addresses ("" where it serves none), and its models' queues.

    ``health_address`` is where its health is served apart.
    """

    address: str
    http_address: str
    health_address: str
    queues: Mapping[str, JobQueue]
    status: Status

    @property
    def queue(self) -> JobQueue:
        """The first model's."""
        return next(iter(self.queues.values()))

    @property
    def ready_line(self) -> str:
        addresses = [f"grpc={self.address}"] if self.address or not self.http_address else []
        addresses += [f"http={self.http_address}"] if self.http_address else []
        addresses += [f"health={self.health_address}"] if self.health_address else []
        where = f"{' '.join(addresses)}{self.status.ready_field}"
        return f"ready {where} model={','.join(self.queues)}"


@dataclass(frozen=True, slots=True)
class Model:
    """One of the models as this scheduler serves it."""

    card: ModelCard
    queue: JobQueue
    metrics: SchedulerMetrics


class _Stopped(Exception):
    """We were told to stop before Redis was there."""


@asynccontextmanager
async def scheduler(
    settings: SchedulerSettings, stop: asyncio.Event | None = None
) -> AsyncIterator[Running]:
    """Run a scheduler for the time of the block, from when Redis is there.

    The api serves before, and says that Redis is away. Raises StepserveError where the model
    is not there, the address is taken, or Redis can't keep what is promised.
    """
    for directory in filter(None, (settings.record_dir, settings.record_events_dir)):
        _make_directory(directory)
    _check_access(settings)
    cards = await asyncio.to_thread(_load_cards, settings)
    async with AsyncExitStack() as stack:
        tracing = start_tracing(settings.otlp_endpoint)
        if tracing is not None:
            # Pushed first: the last spans end with all that is closed before it.
            stack.push_async_callback(asyncio.to_thread, tracing.close)
        status = Status(settings)
        models = [await _model(stack, card, settings, status) for card in cards]
        queues = {model.card.name: model.queue for model in models}
        await stack.enter_async_context(_told(models, settings, status))
        front_ends = _front_ends(models, settings, tracing)
        addresses = await _serve_clients(stack, front_ends, settings, status)
        await _prepare(list(queues.values()), settings, stop or asyncio.Event())
        for queue in queues.values():
            await stack.enter_async_context(_background(_sweep(queue, settings.lease_ttl_s)))
        if settings.roles in ("all", "lane"):
            holder = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
            room = EdgeRoom()
            replicas = [await _replica(stack, m, settings, holder, tracing, room) for m in models]
            lanes = Lanes(replicas, settings.worker_addresses)
            await stack.enter_async_context(_background(lanes.run()))
            stack.push_async_callback(lanes.drain)
        stack.callback(status.vitals.end)
        yield Running(*addresses, queues, status)


def _load_cards(settings: SchedulerSettings) -> list[ModelCard]:
    return [ModelCard.load(model.source, model.name) for model in settings.sources]


def _front_ends(
    models: Sequence[Model], settings: SchedulerSettings, tracing: Tracing | None
) -> FrontEnds:
    """Return those of all models, with one guard. Raises BadKeyFile where clients are served."""
    each = [FrontEnd(model.queue, model.card, settings, tracing) for model in models]
    return FrontEnds(each, Guard.of(settings.api_keys_file) if settings.roles != "lane" else None)


async def _model(
    stack: AsyncExitStack, card: ModelCard, settings: SchedulerSettings, status: Status
) -> Model:
    """Open a model's queue for as long as the stack is."""
    limits = QueueLimits(
        max_queued_jobs=settings.max_queued_jobs,
        retention_s=settings.retention_s,
        max_ended_jobs=settings.max_ended_jobs,
        max_ended_bytes=settings.max_ended_bytes,
        durability=settings.durability,
        lease_grace_s=LEASE_GRACE_S,
        on_model_change=settings.on_model_change,
        stranded_grace_s=settings.stranded_grace_s,
    )
    queue = await stack.enter_async_context(
        JobQueue(redis_url(settings), card.name, limits, settings.order)
    )
    return Model(card, queue, SchedulerMetrics(queue, card.name, settings, status))


async def _replica(
    stack: AsyncExitStack,
    model: Model,
    settings: SchedulerSettings,
    holder: str,
    tracing: Tracing | None,
    room: EdgeRoom,
) -> Replica:
    """Show what a model's lanes do, to who looks, for as long as the stack is open."""
    turns, broadcast = model.metrics.turns, Broadcast()
    showing = broadcast.run(model.queue, holder, turns.latencies)
    await stack.enter_async_context(_background(showing))
    return Replica(model.queue, model.card, settings, holder, turns, broadcast, tracing, room)


@asynccontextmanager
async def _told(
    models: Sequence[Model], settings: SchedulerSettings, status: Status
) -> AsyncIterator[None]:
    """Measure the queues and serve all that is told of us, if it is wanted."""
    if not (status.is_wanted or _http_port(settings) is not None):
        yield
        return
    async with AsyncExitStack() as stack:
        for work in (*(model.metrics.queue.run() for model in models), status.vitals.beat()):
            await stack.enter_async_context(_background(work))
        stack.enter_context(status.served(settings.host))
        yield


async def _serve_clients(
    stack: AsyncExitStack, front_ends: FrontEnds, settings: SchedulerSettings, status: Status
) -> tuple[str, str, str]:
    """Serve what the role and the ports say.

    Returns the addresses of gRPC, of HTTP and of health alone, each "" where there is none.
    """
    address = ""
    tls = server_tls(settings.tls_files)
    process, health_address = await process_health(), ""
    if settings.roles in ("all", "api"):
        api = ApiServer(front_ends, settings, tls)
        status.vitals.require(ready=lambda: api.problem)
        port = DEFAULT_PORT if settings.port is None else settings.port
        address = await api.start(settings.host, port)
        stack.push_async_callback(api.stop)
        process = api.health
    elif settings.port is not None:
        alone = serve_health(settings.host, settings.port, process)
        address = await stack.enter_async_context(alone)
    if settings.health_port is not None:
        alone = serve_health(settings.host, settings.health_port, process)
        health_address = await stack.enter_async_context(alone)
    if settings.roles == "http":
        status.vitals.require(ready=partial(_problem, front_ends))
        await stack.enter_async_context(_background(front_ends.run(_tell_nobody)))
    http_port = _http_port(settings)
    if http_port is None:
        return address, "", health_address
    http = HttpServer(front_ends, status.metrics, tls)
    http_address = await http.start(settings.host, http_port)
    stack.push_async_callback(http.stop)
    # First of all, so that streams that are cut off with the process cancel nothing.
    stack.push_async_callback(front_ends.close)
    return address, http_address, health_address


def _check_access(settings: SchedulerSettings) -> None:
    """Raise StepserveError where others would be let in, or a file is of no use."""
    if settings.roles != "lane":
        settings.check_host(settings.host)
        settings.tls_files.read()
    if settings.roles in ("all", "lane"):
        FleetCaller(settings)


def _http_port(settings: SchedulerSettings) -> int | None:
    """Return the port for HTTP, None where it is not served."""
    if settings.roles == "lane":
        return None
    if settings.roles == "http" and settings.http_port is None:
        return DEFAULT_HTTP_PORT
    return settings.http_port


def _problem(front_ends: FrontEnds) -> str:
    """Why no job is taken now; empty where jobs are."""
    takes_jobs = front_ends.readiness.takes_jobs
    return "" if takes_jobs else "Redis does not answer, or has no memory left"


async def _tell_nobody(_now: Readiness) -> None:
    """HTTP's routes look at the front end themselves."""


def redis_url(settings: SchedulerSettings) -> str:
    """Return where Redis is. Raises StepserveError where nobody said."""
    url = settings.redis_address()
    if not url:
        raise StepserveError(
            "no Redis: give STEPSERVE_REDIS_URL or --redis-url-file (redis://HOST:PORT/DB), "
            "or use `stepserve up`, which starts one"
        )
    return url


def _make_directory(directory: str) -> None:
    """Make it where it is not there. Raises StepserveError where that can't be done."""
    try:
        Path(directory).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StepserveError(f"can't record into {directory}: {error.strerror}") from None


async def _prepare(
    queues: Sequence[JobQueue], settings: SchedulerSettings, stop: asyncio.Event
) -> None:
    """Wait until Redis is there, see what it keeps, and put the jobs in it into our order.

    Raises StepserveError where it does not keep what is promised.
    """
    said = ""
    while not stop.is_set():
        try:
            checked: set[Host | None] = set()  # One is all models', or of a cluster some models'.
            for queue in queues:
                await queue.check_server(checked)
            for queue in queues:
                await queue.adopt_order()
            return
        except Unavailable as error:
            if str(error) != said:
                where = redacted(settings.redis_address())
                log.warning("waiting for Redis at %s: %s", where, error)
            said = str(error)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(POLL_INTERVAL_S):
                await stop.wait()
    raise _Stopped


async def _sweep(queue: JobQueue, lease_ttl_s: float) -> None:
    """End overdue jobs and forget old ones, again and again; any replica may, at any time.

    A Redis that was away may be another one, or have been started again: look at it anew.
    """
    was_away = False
    # Where all schedulers were away, what workers hold still is for our lanes to take first.
    await asyncio.sleep(FIRST_SWEEP_AFTER_S)
    while True:
        try:
            if was_away:
                await _look_again(queue)
                # Leases expired while nobody could renew them: their holders come first.
                await asyncio.sleep(lease_ttl_s)
                was_away = False
            await queue.sweep()
        except Unavailable:
            was_away = True
        except Exception:
            # Of one stored job, as like as not: the others are served all the same.
            log.exception("the sweep failed, and is tried again")
        await asyncio.sleep(SWEEP_INTERVAL_S)


async def _look_again(queue: JobQueue) -> None:
    try:
        await queue.check_server()
    except Unavailable:
        raise
    except StepserveError as error:
        log.error("%s", error)


@asynccontextmanager
async def _background(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    task.add_done_callback(_surface)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def _surface(task: asyncio.Task[None]) -> None:
    """A background task that fails is a bug of ours: say so and end the process."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("a background task failed", exc_info=error)
        os.kill(os.getpid(), signal.SIGTERM)


async def serve(settings: SchedulerSettings) -> None:
    """Serve until SIGTERM or SIGINT; prints ``ready grpc=HOST:PORT http=HOST:PORT model=NAME``.

    What is not served is left out.
    """
    stop = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    async with scheduler(settings, stop) as running:
        for queue in running.queues.values():
            while settings.wait_for_worker and not await _num_workers(queue):
                if stop.is_set():
                    return
                await asyncio.sleep(POLL_INTERVAL_S)
        calm_collector()
        print(running.ready_line, flush=True)
        await stop.wait()


async def _num_workers(queue: JobQueue) -> int:
    try:
        return len(await queue.workers())
    except Unavailable:
        return 0


def run(settings: SchedulerSettings) -> int:
    """Serve; return the exit status: 1 where it cannot be served, with one line saying why."""
    try:
        start_logging()
        with contextlib.suppress(_Stopped):
            uvloop.run(serve(settings))
    except StepserveError as error:
        print(f"{PROG}: {error}", file=sys.stderr)
        return 1
    return 0
