"""A service of so many schedulers and oracle workers, under a load that fills every place."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from scheduler_svc.queue.embedded import EmbeddedRedis
from stepserve.process.tether import tethered
from stepserve.protocol.errors import StepserveError
from stepserve_bench.demo.storyteller import MODEL_DIR
from stepserve_bench.measure.metrics import read_metrics
from stepserve_bench.measure.processes import cpu_s, started
from stepserve_bench.scaling.clients import Demand, Served, begin, serve_demand
from stepserve_bench.scaling.limit import first_limit

COMMITS = "commit_duration_seconds_count"
RUNNING = "num_requests_running"
OTHERS = "clients and others"
# Workers that came to be driven late are shared out anew before it is measured.
RAMP_S = 3.0
FILLED, FILL_TIMEOUT_S, POLL_S, TIMEOUT_S = 0.8, 120.0, 0.2, 10.0
QUIET = {"STEPSERVE_LOG_LEVEL": "ERROR"}


@dataclass(frozen=True, slots=True)
class Size:
    """What is measured: how many of each, and what a worker could do alone."""

    workers: int
    schedulers: int
    places: int
    step_ms: float

    @property
    def ideal_tokens_per_s(self) -> float:
        """Every place of every worker gets a token in every step."""
        return self.workers * self.places / self.step_ms * 1e3


@dataclass(frozen=True, slots=True)
class Running:
    """A service's processes by name, where clients reach it, and where it tells its metrics."""

    processes: dict[str, int]
    targets: list[str]
    metrics: list[str]


def measure(size: Size, num_tokens: int, seconds: float, num_clients: int) -> dict[str, object]:
    """Return the rates, the cores that each process kept busy, and the first limit.

    Raises StepserveError where the places do not fill.
    """
    context = multiprocessing.get_context("spawn")
    is_over, num_streams = context.Event(), size.workers * size.places
    with _running(size) as service, context.Pool(num_clients, begin, (is_over,)) as pool:
        coming = pool.map_async(
            serve_demand,
            [
                Demand(service.targets, len(range(n, num_streams, num_clients)), num_tokens, n)
                for n in range(num_clients)
            ],
        )
        _until_full(service, num_streams)
        time.sleep(RAMP_S)
        before = _read(service)
        time.sleep(seconds)
        after = _read(service)
        is_over.set()
        served = coming.get()
    seconds = after.at_s - before.at_s
    cores = {name: (after.cpu_s[name] - before.cpu_s[name]) / seconds for name in after.cpu_s}
    commits = (after.commits - before.commits) / seconds
    return _figures(size, served, (before.at_s, after.at_s), cores, commits)


def _until_full(service: Running, num_streams: int) -> None:
    """Wait until nearly every place has been taken: ends and beginnings always leave some."""
    deadline_s = time.monotonic() + FILL_TIMEOUT_S
    while _counted(service, RUNNING) < FILLED * num_streams:
        if time.monotonic() > deadline_s:
            raise StepserveError(f"the places do not fill within {FILL_TIMEOUT_S:g} s")
        time.sleep(POLL_S)


def _figures(
    size: Size,
    served: Sequence[Served],
    span_s: tuple[float, float],
    cores: dict[str, float],
    commits_per_s: float,
) -> dict[str, object]:
    counts = [each.within(*span_s) for each in served]
    seconds = span_s[1] - span_s[0]
    tokens_per_s = sum(tokens for tokens, _ in counts) / seconds
    share, others = tokens_per_s / size.ideal_tokens_per_s, cores.pop(OTHERS)
    return {
        "workers": size.workers,
        "schedulers": size.schedulers,
        "tokens_per_s": round(tokens_per_s, 1),
        "ideal_tokens_per_s": round(size.ideal_tokens_per_s, 1),
        "share_of_ideal": round(share, 3),
        "jobs_per_s": round(sum(jobs for _, jobs in counts) / seconds, 2),
        "commits_per_s": round(commits_per_s, 1),
        "commits_per_redis_core_s": round(commits_per_s / cores["redis"]),
        "tokens_per_redis_core_s": round(tokens_per_s / cores["redis"]),
        "cores": {name: round(busy, 3) for name, busy in (*cores.items(), (OTHERS, others))},
        "first_limit": first_limit(share, cores, others, os.cpu_count() or 1),
    }


@dataclass(frozen=True, slots=True)
class _Reading:
    at_s: float
    cpu_s: dict[str, float]
    commits: float


def _read(service: Running) -> _Reading:
    """What was spent and committed so far. All CPU time that is no service's is told as one."""
    commits, spent = _counted(service, COMMITS), cpu_s(service.processes)
    machine = psutil.cpu_times()
    in_all = machine.user + machine.nice + machine.system
    return _Reading(time.time(), {**spent, OTHERS: in_all - sum(spent.values())}, commits)


def _counted(service: Running, name: str) -> float:
    """A metric of all schedulers together."""
    counted = [read_metrics(address, TIMEOUT_S) for address in service.metrics]
    return sum(each.get(name, 0.0) for each in counted)


@contextmanager
def _running(size: Size) -> Iterator[Running]:
    of_model = f"--model={MODEL_DIR}"
    found = Running({}, [], [])
    with ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="stepserve-scaling-"))
        redis = stack.enter_context(EmbeddedRedis.start(Path(scratch) / "redis"))
        found.processes["redis"] = redis.pid or os.getpid()
        addresses = []
        for number in range(size.workers):
            flags = [f"--max-batch-size={size.places}", f"--step-ms={size.step_ms}"]
            command = tethered("stepserve_bench.oracle_worker", of_model, *flags)
            process, ready = stack.enter_context(started(command, QUIET))
            found.processes[f"worker-{number}"] = process.pid
            addresses.append(ready["worker"])
        flags = [f"--workers={','.join(addresses)}", "--port=0", "--metrics-port=0"]
        command = tethered("scheduler_svc", of_model, *flags, "--wait-for-worker")
        for number in range(size.schedulers):
            environment = {**QUIET, "STEPSERVE_REDIS_URL": redis.url}
            process, ready = stack.enter_context(started(command, environment))
            found.processes[f"scheduler-{number}"] = process.pid
            found.targets.append(ready["grpc"])
            found.metrics.append(ready["metrics"])
        yield found
