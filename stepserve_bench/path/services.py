"""The processes of the path benchmark: real ones, but for the worker's device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from scheduler_svc.queue.embedded import EmbeddedRedis
from stepserve.process.tether import tethered
from stepserve_bench.demo.storyteller import MODEL_DIR
from stepserve_bench.measure.processes import cpu_s, started
from stepserve_bench.oracle_worker.oracle import BLOCK_SIZE

MAX_CONTEXT, STEP_TOKENS = 1024, 8192


@dataclass(frozen=True, slots=True)
class Plan:
    """What to start: a scheduler in one process or apart, and a worker of so many rows."""

    rows: int
    step_ms: float
    is_apart: bool
    scheduler: Sequence[str]

    def worker(self, report: Path) -> list[str]:
        """Return the worker's command line; ``report`` is where it writes what it measured."""
        return tethered(
            "stepserve_bench.oracle_worker",
            f"--model={MODEL_DIR}",
            f"--max-batch-size={self.rows}",
            f"--num-blocks={self.rows * MAX_CONTEXT // BLOCK_SIZE}",
            f"--max-context={MAX_CONTEXT}",
            f"--max-step-tokens={STEP_TOKENS}",
            f"--step-ms={self.step_ms}",
            "--launch-ahead=2",
            f"--usage-out={report}",
            "--metrics-port=0",
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
    """Processes that run, and where they are found: ``addresses`` by edge, and "metrics", the
    worker's.
    """

    pids: Mapping[str, int]
    addresses: Mapping[str, str]

    def cpu_s(self) -> dict[str, float]:
        """Return the processor time that each has taken so far, of all its threads."""
        return cpu_s(self.pids)


@contextmanager
def running(plan: Plan, directory: Path, report: Path) -> Iterator[Services]:
    """Let them run for the time of the block. Raises StepserveError where one does not."""
    with ExitStack() as stack:
        redis = stack.enter_context(EmbeddedRedis.start(directory / "redis"))
        worker, told = stack.enter_context(started(plan.worker(report), {}))
        metrics = told["metrics"]
        pids = {"redis": redis.pid or 0, "worker": worker.pid}
        for name, command in plan.schedulers(told["worker"]).items():
            environment = {"STEPSERVE_REDIS_URL": redis.url}
            process, told = stack.enter_context(started(command, environment))
            pids[name] = process.pid
        addresses = {"grpc": told["grpc"], "http": told["http"], "metrics": metrics}
        yield Services(pids, addresses)
