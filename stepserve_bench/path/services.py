"""The processes of the path benchmark: real ones, but for the worker's device."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from scheduler_svc.queue.embedded import EmbeddedRedis
from stepserve.local.ready import ready_fields
from stepserve.process.tether import tethered
from stepserve.protocol.errors import StepserveError
from stepserve_bench.demo.storyteller import MODEL_DIR

STOP_TIMEOUT_S = 15.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What to start: a scheduler in one process or apart, and a worker of so many rows."""

    rows: int
    step_ms: float
    is_apart: bool
    scheduler: Sequence[str]

    def worker(self, report: Path) -> list[str]:
        """Return the worker's command line; ``report`` is where it writes what it measured."""
        vocab_size = json.loads((MODEL_DIR / "config.json").read_text())["vocab_size"]
        return tethered(
            "stepserve_bench.path.null_worker",
            f"--model={MODEL_DIR.name}",
            f"--rows={self.rows}",
            f"--vocab-size={vocab_size}",
            f"--step-ms={self.step_ms}",
            f"--out={report}",
        )

    def schedulers(self, worker: str) -> dict[str, list[str]]:
        """Return each scheduler's command line, by what it is; who serves clients comes last."""
        common = [
            f"--model={MODEL_DIR}",
            f"--workers={worker}",
            "--port=0",
            f"--max-batch-size={self.rows}",
            *self.scheduler,
        ]
        serving = ["--http-port=0", "--wait-for-worker"]
        if not self.is_apart:
            return {"scheduler": tethered("scheduler_svc", "--roles=all", *serving, *common)}
        return {
            "lane": tethered("scheduler_svc", "--roles=lane", *common),
            "api": tethered("scheduler_svc", "--roles=api", *serving, *common),
        }


@dataclass(frozen=True, slots=True)
class Services:
    """Processes that run, and where clients find them: ``addresses`` by edge."""

    pids: Mapping[str, int]
    addresses: Mapping[str, str]

    def cpu_s(self) -> dict[str, float]:
        """Return the processor time that each has taken so far, of all its threads."""
        times = {name: psutil.Process(pid).cpu_times() for name, pid in self.pids.items()}
        return {name: spent.user + spent.system for name, spent in times.items()}


@contextmanager
def running(plan: Plan, directory: Path, report: Path) -> Iterator[Services]:
    """Let them run for the time of the block. Raises StepserveError where one does not."""
    with ExitStack() as stack:
        redis = stack.enter_context(EmbeddedRedis.start(directory / "redis"))
        worker, told = stack.enter_context(_started(plan.worker(report), {}))
        pids = {"redis": redis.pid or 0, "worker": worker.pid}
        for name, command in plan.schedulers(told["worker"]).items():
            environment = {"STEPSERVE_REDIS_URL": redis.url}
            process, told = stack.enter_context(_started(command, environment))
            pids[name] = process.pid
        yield Services(pids, {"grpc": told["grpc"], "http": told["http"]})


@contextmanager
def _started(
    command: Sequence[str], environment: Mapping[str, str]
) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """The process, and what its line ``ready`` says, until the end of the block."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )
    try:
        assert process.stdout is not None
        ready = next(filter(None, map(ready_fields, process.stdout)), None)
        if ready is None:
            raise StepserveError(f"{' '.join(command)} ended with status {process.wait()}")
        yield process, ready
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(STOP_TIMEOUT_S)
