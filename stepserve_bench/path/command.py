"""``stepserve bench path``: what a streamed token costs beside the device."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict
from rich.console import Console
from rich.table import Table

from scheduler_svc.queue.embedded import EmbeddedRedis
from stepserve import AsyncClient
from stepserve.process.tether import tethered
from stepserve.protocol.errors import StepserveError
from stepserve.protocol.inference import Request
from stepserve.protocol.sampling import SamplingParams
from stepserve_bench.demo.storyteller import MODEL_DIR
from stepserve_bench.measure.figures import percentile
from stepserve_bench.measure.processes import cpu_s, started
from stepserve_bench.oracle_worker.oracle import BLOCK_SIZE
from stepserve_bench.report.machine import machine

PROMPT = tuple(range(300, 316))
MAX_CONTEXT, STEP_TOKENS = 1024, 8192


class PathBench(BaseSettings):
    """Stream many jobs at once from a worker that only sleeps, and say what each process costs.

    Everything but the model is real: clients, gRPC, Redis, planning, text. The CPU time of a
    process over the streamed tokens is what one token costs it; 1 s over the scheduler's is how
    many tokens a second one core of a scheduler can stream.
    """

    model_config = SettingsConfigDict(
        env_prefix="STEPSERVE_BENCH_", env_ignore_empty=True, frozen=True
    )

    streams: int = Field(64, ge=1, le=1024, description="jobs at once, all of them streamed")
    tokens: int = Field(300, ge=1, le=900, description="tokens of each job")
    step_ms: float = Field(0.0, ge=0, description="how long the device takes for a step")
    roles: Literal["all", "apart"] = Field(
        "all", description="apart: api and lane in processes of their own"
    )
    clients: int = Field(1, ge=1, le=8, description="client processes")
    scheduler: str = Field("", description="more options for the scheduler, as on a command line")
    out: Path | None = Field(None, description="where the figures go, as JSON")

    def run(self) -> int:
        """Measure; the last line printed is a JSON object with the figures."""
        with tempfile.TemporaryDirectory(prefix="stepserve-path-") as directory:
            figures = self._measured(Path(directory))
        _tell(figures)
        content = {"machine": machine(), "options": self.model_dump(mode="json"), **figures}
        if self.out is not None:
            self.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        print(json.dumps(figures))
        return 0

    def _measured(self, directory: Path) -> dict[str, float]:
        report = directory / "worker.json"
        with ExitStack() as stack:
            redis = stack.enter_context(EmbeddedRedis.start(directory / "redis"))
            worker, address = stack.enter_context(started(self._worker(report), {}))
            environment = {"STEPSERVE_REDIS_URL": redis.url}
            services: dict[str, int] = {"redis": redis.pid or 0, "worker": worker.pid}
            target = ""
            for role in ("lane", "api") if self.roles == "apart" else ("all",):
                command = self._scheduler(role, address["worker"])
                process, ready = stack.enter_context(started(command, environment))
                services["scheduler" if role == "all" else role] = process.pid
                target = ready["grpc"]
            _stream_all(target, self.clients, self.clients, 8)  # warms up
            before = cpu_s(services)
            gaps, seconds = _stream_all(target, self.streams, self.clients, self.tokens)
            after = cpu_s(services)
        tokens = self.streams * self.tokens
        costs = {f"{name}_us": (after[name] - before[name]) / tokens * 1e6 for name in services}
        busy = json.loads(report.read_text())
        scheduler_us = sum(costs.get(f"{name}_us", 0.0) for name in ("scheduler", "lane", "api"))
        return {
            "tokens_per_s": tokens / seconds,
            **costs,
            "tokens_per_scheduler_core_s": 1e6 / scheduler_us,
            "tokens_per_event": tokens / (len(gaps) + self.streams),
            "gap_ms_p50": percentile(gaps, 0.5) * 1e3,
            "gap_ms_p99": percentile(gaps, 0.99) * 1e3,
            "idle_share": max(0.0, 1 - busy["busy_s"] / busy["seconds"]),
        }

    def _worker(self, report: Path) -> list[str]:
        return tethered(
            "stepserve_bench.oracle_worker",
            f"--model={MODEL_DIR}",
            f"--max-batch-size={self.streams}",
            f"--num-blocks={self.streams * MAX_CONTEXT // BLOCK_SIZE}",
            f"--max-context={MAX_CONTEXT}",
            f"--max-step-tokens={STEP_TOKENS}",
            f"--step-ms={self.step_ms}",
            "--launch-ahead=1",
            f"--usage-out={report}",
        )

    def _scheduler(self, role: str, worker: str) -> list[str]:
        return tethered(
            "scheduler_svc",
            f"--model={MODEL_DIR}",
            f"--roles={role}",
            f"--workers={worker}",
            "--port=0",
            f"--max-batch-size={self.streams}",
            *([] if role == "lane" else ["--wait-for-worker"]),
            *self.scheduler.split(),
        )


def _stream_all(target: str, streams: int, clients: int, tokens: int) -> tuple[list[float], float]:
    """Seconds between two events of a stream, and seconds from the first event to the last."""
    counts = [len(range(number, streams, clients)) for number in range(clients)]
    with multiprocessing.get_context("spawn").Pool(clients) as pool:
        found = pool.starmap(_client, [(target, count, tokens) for count in counts])
    gaps = [gap for part in found for gap in part[0]]
    return gaps, max(part[2] for part in found) - min(part[1] for part in found)


def _client(target: str, streams: int, tokens: int) -> tuple[list[float], float, float]:
    return asyncio.run(_streams(target, streams, tokens))


async def _streams(target: str, streams: int, tokens: int) -> tuple[list[float], float, float]:
    async with AsyncClient(target) as client:
        times = await asyncio.gather(*(_times(client, tokens) for _ in range(streams)))
    # The first event only tells the job's id.
    gaps = [after - before for each in times for before, after in pairwise(each[1:])]
    return gaps, min(each[0] for each in times), max(each[-1] for each in times)


async def _times(client: AsyncClient, tokens: int) -> list[float]:
    sampling = SamplingParams(max_tokens=tokens, temperature=0.0, ignore_eos=True)
    found, count = [], 0
    async for event in client.generate(Request(prompt_token_ids=PROMPT, sampling=sampling)):
        found.append(time.time())
        count += len(event.token_ids)
    if count != tokens:
        raise StepserveError(f"a stream of {count} tokens, {tokens} were asked for")
    return found


def _tell(figures: Mapping[str, float]) -> None:
    table = Table("figure", "value", title="the path around the step")
    for name, value in figures.items():
        table.add_row(name, f"{value:,.3g}" if value < 1000 else f"{value:,.0f}")
    Console().print(table)
