"""How much work waits in Redis and how Redis does, looked at again and again."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from scheduler_svc.metrics.tenants import OTHERS, Tenants
from scheduler_svc.metrics.turns import Turns, cache_info
from scheduler_svc.queue import Backlog, JobQueue, Waiting, WorkerRecord
from stepserve.metrics.family import Family, counter, gauge, gauges, histogram, histograms
from stepserve.protocol.errors import Unavailable

log = logging.getLogger(__name__)

LOOK_INTERVAL_S = 1.0
# Whose jobs wait is asked less often: Redis reads every job for it.
TENANTS_INTERVAL_S = 5.0
MAX_READ_JOBS = 8192
# Older than this, what was read says nothing.
MAX_AGE_S = 3.0


class QueueMeter:
    """Reads for as long as it runs; between two looks it tells what it read last.

    The queue is one for all schedulers of a model, and each tells of it as a whole. Where Redis
    does not answer nothing is told of it.
    """

    def __init__(
        self, queue: JobQueue, turns: Turns, tenants: Tenants, *, has_lanes: bool = True
    ) -> None:
        self._queue = queue
        self._turns = turns
        self._has_lanes = has_lanes
        self._tenants = tenants
        self._backlog: Backlog | None = None
        self._workers: Sequence[WorkerRecord] = ()
        self._waiting: Mapping[str, Waiting] = {}
        self._memory_share = 0.0
        self._read_s = self._read_tenants_s = float("-inf")
        self._problem = "Redis was not asked yet"

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            try:
                await self._look()
                self._problem = ""
            except Unavailable as error:
                self._problem = str(error)
            except Exception as error:  # of one stored value, as like as not
                if str(error) != self._problem:
                    log.exception("the queue can't be measured")
                self._problem = str(error)
            await asyncio.sleep(LOOK_INTERVAL_S)

    async def _look(self) -> None:
        asked_s = time.monotonic()
        backlog = await self._queue.backlog()
        self._read_s = time.monotonic()
        # It answered at some moment between.
        self._turns.redis_epoch_s = backlog.now_s - (asked_s + self._read_s) / 2
        self._backlog = backlog
        if not self._has_lanes:
            self._workers = await self._queue.workers()
        if not backlog.num_queued:
            self._waiting = {}
        if self._read_s - self._read_tenants_s >= TENANTS_INTERVAL_S:
            self._waiting = await self._queue.waiting_by_tenant(MAX_READ_JOBS)
            self._read_tenants_s = self._read_s
            self._memory_share = (await self._queue.memory(TENANTS_INTERVAL_S)).share

    @property
    def problem(self) -> str:
        """Why Redis is not there for us now; empty where it is."""
        if self._problem:
            return self._problem
        silent_s = time.monotonic() - self._read_s
        return f"Redis has not answered for {silent_s:.1f} s" if silent_s > MAX_AGE_S else ""

    def families(self) -> Iterable[Family]:
        """Return what was read last, where that was a moment ago, and Redis's times."""
        yield histogram(
            "commit_duration_seconds",
            "From a step's rows to Redis's answer that it has them.",
            self._queue.commit_s,
        )
        yield histograms(
            "redis_call_duration_seconds",
            "Calls to Redis, by whom they are for.",
            "side",
            self._queue.call_s,
        )
        verdicts = self._queue.verdicts
        yield counter(
            "worker_crashes", "Crashes of workers and lanes that had jobs.", verdicts.num_crashes
        )
        yield counter("accusations", "Times that a job was there at a crash.", verdicts.num_accused)
        yield counter(
            "convicted_jobs",
            "Jobs that were ended because they crash workers.",
            verdicts.num_convicted,
        )
        yield gauge("redis_up", "1 while Redis answers.", 0.0 if self.problem else 1.0)
        if self._backlog is not None and not self.problem:
            yield from self._of_queue(self._backlog)
            yield from self._of_tenants(self._backlog)

    def _of_queue(self, backlog: Backlog) -> Iterable[Family]:
        num_queued = backlog.num_queued
        yield gauge("queue_depth", "Jobs that wait in Redis, for any lane.", num_queued)
        yield gauge(
            "num_requests_waiting",
            "Jobs that wait in Redis and sequences that wait in this process's lanes.",
            num_queued + self._turns.num_waiting,
        )
        if not self._has_lanes:
            # For whoever looks at this process alone, and under vLLM's name.
            yield gauge(
                "num_requests_running", "Jobs that lanes hold, elsewhere.", backlog.num_claimed
            )
            yield from self._of_workers()
        yield gauge("claimed_jobs", "Jobs that lanes hold, of all schedulers.", backlog.num_claimed)
        yield gauge("ended_jobs", "Ended jobs that can still be read.", backlog.num_ended)
        yield gauge("workers", "Workers that have a lease, of all schedulers.", backlog.num_workers)
        yield gauge("suspect_jobs", "Jobs that may be why a worker crashed.", backlog.num_suspects)
        yield gauge(
            "stranded_jobs", "Waiting jobs that a worker could not run.", backlog.num_stranded
        )
        yield gauge(
            "redis_memory_share", "Share of Redis's maxmemory that is used.", self._memory_share
        )

    def _of_workers(self) -> Iterable[Family]:
        """Return what a process with lanes tells of its own, of all workers: as leases have it."""
        total = sum(worker.num_blocks for worker in self._workers)
        used = sum(worker.num_used_blocks for worker in self._workers)
        yield gauge("kv_cache_usage_perc", "Share of KV blocks held: 0 to 1.", used / (total or 1))
        if total:
            yield cache_info(self._workers[0].block_size, total)

    def _of_tenants(self, backlog: Backlog) -> Iterable[Family]:
        depths: defaultdict[str, float] = defaultdict(float)
        ages: defaultdict[str, float] = defaultdict(float)
        for tenant, waiting in self._waiting.items():
            label = self._tenants.label(tenant)
            depths[label] += waiting.num_jobs
            ages[label] = max(ages[label], backlog.now_s - waiting.oldest_s)
        unread = backlog.num_queued - MAX_READ_JOBS
        if unread > 0:
            depths[OTHERS] += unread
        oldest_s = max(ages.values(), default=0.0)
        yield gauge("queue_age_seconds", "How long the oldest waiting job has waited.", oldest_s)
        yield gauges("tenant_queue_depth", "Waiting jobs of a tenant.", "tenant", depths)
        yield gauges(
            "tenant_queue_age_seconds",
            "How long a tenant's oldest waiting job has waited.",
            "tenant",
            ages,
        )
