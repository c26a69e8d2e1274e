"""``stepserve bench path``: what a streamed token costs beside the device."""

from __future__ import annotations

import json
import multiprocessing
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict
from rich.table import Table

from stepserve_bench.measure.figures import percentile
from stepserve_bench.path.cancels import Cancels, cancel_all
from stepserve_bench.path.clients import Edge, Times, Wish, stream_all
from stepserve_bench.path.services import Plan, Services, running
from stepserve_bench.report.machine import machine
from stepserve_bench.report.tables import table_console

# Of a lone stream: enough to have a second token.
LONE_TOKENS = 2
WARM_UP_TOKENS = 8
CANCELLED = {"p50": 0.5, "p99": 0.99}
SCHEDULERS = ("scheduler", "lane", "api")


class PathBench(BaseSettings):
    """Stream many jobs at once from a worker that only sleeps, and say what each process costs.

    Everything but the model is real: clients, gRPC or HTTP, Redis, planning, text. The CPU time
    of a process over the streamed tokens is what one token costs it; 1 s over the scheduler's
    is how many tokens a second one core of a scheduler can stream. Before that all jobs are
    offered once with one token each (``start``: what a stream costs beside its tokens), and
    after it some over each edge one after another (``ttft``), and some that are cancelled in their
    midst: how long the worker held them after that (``cancel``).
    """

    model_config = SettingsConfigDict(
        env_prefix="STEPSERVE_BENCH_", env_ignore_empty=True, frozen=True
    )

    streams: int = Field(64, ge=1, le=1024, description="jobs at once, all of them streamed")
    tokens: int = Field(300, ge=1, le=900, description="tokens of each job")
    edge: Edge = Field("grpc", description="how clients stream: gRPC, or HTTP's completions")
    step_ms: float = Field(0.0, ge=0, description="how long the device takes for a step")
    roles: Literal["all", "apart"] = Field(
        "all", description="apart: api and lane in processes of their own"
    )
    clients: int = Field(1, ge=1, le=8, description="client processes")
    lone: int = Field(20, ge=1, le=1000, description="streams over each edge with nothing beside")
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
        plan = Plan(self.streams, self.step_ms, self.roles == "apart", self.scheduler.split())
        with ExitStack() as stack:
            services = stack.enter_context(running(plan, directory, report))
            processes = multiprocessing.get_context("spawn").Pool(self.clients)
            clients = Clients(stack.enter_context(processes), self.clients, services)
            for edge in ("grpc", "http"):
                clients.stream(edge, self.clients, WARM_UP_TOKENS)
            starts = _starts(clients, self.edge, self.streams)
            streamed = _streamed(clients, self.edge, self.streams, self.tokens)
            alone = _alone(clients, self.lone)
            cancelled = _cancelled(clients, self.lone)
        worker = json.loads(report.read_text())
        worked_s = worker["full_s"] + worker["idle_s"]
        idle = {"idle_share": worker["idle_s"] / worked_s} if worker["full_s"] else {}
        return {**streamed, **starts, **alone, **cancelled, **idle}


@dataclass(frozen=True, slots=True)
class Clients:
    """Client processes, and what they and the services did."""

    pool: Pool
    num_processes: int
    services: Services

    def stream(self, edge: Edge, streams: int, tokens: int) -> list[Times]:
        """Stream so many jobs at once."""
        counts = [len(range(n, streams, self.num_processes)) for n in range(self.num_processes)]
        address = self.services.addresses[edge]
        wishes = [Wish(edge, address, count, tokens) for count in counts]
        return [times for found in self.pool.map(stream_all, wishes, 1) for times in found]

    def one_by_one(self, edge: Edge, streams: int, tokens: int) -> list[Times]:
        """Stream so many jobs one after another."""
        address = self.services.addresses[edge]
        return self.pool.apply(stream_all, (Wish(edge, address, streams, tokens, at_once=False),))

    def cancel(self, count: int) -> list[float]:
        """Cancel so many jobs, one after another; return the seconds that each was held."""
        addresses = self.services.addresses
        cancels = Cancels(addresses["grpc"], addresses["metrics"], count)
        return self.pool.apply(cancel_all, (cancels,))

    def costs_us(self, work: Callable[[], list[Times]]) -> tuple[list[Times], dict[str, float]]:
        """Return what came of the work, and each service's processor time for it, in us."""
        before = self.services.cpu_s()
        found = work()
        after = self.services.cpu_s()
        return found, {name: (after[name] - before[name]) * 1e6 for name in after}


def _starts(clients: Clients, edge: Edge, streams: int) -> dict[str, float]:
    """What a stream costs that has one token, and how long it takes until all are taken."""
    times, costs = clients.costs_us(lambda: clients.stream(edge, streams, 1))
    taken_s = max(each.taken_s for each in times) - min(each.asked_s for each in times)
    return {
        **{f"start_{name}_us": cost / streams for name, cost in costs.items()},
        "all_taken_ms": taken_s * 1e3,
    }


def _streamed(clients: Clients, edge: Edge, streams: int, tokens: int) -> dict[str, float]:
    times, costs = clients.costs_us(lambda: clients.stream(edge, streams, tokens))
    num_tokens = streams * tokens
    gaps_s = [after - before for each in times for before, after in pairwise(each.events_s)]
    seconds = max(each.events_s[-1] for each in times) - min(each.events_s[0] for each in times)
    scheduler_us = sum(costs.get(name, 0.0) for name in SCHEDULERS)
    return {
        "tokens_per_s": num_tokens / seconds,
        **{f"{name}_us": cost / num_tokens for name, cost in costs.items()},
        "tokens_per_scheduler_core_s": 1e6 * num_tokens / scheduler_us,
        "tokens_per_event": num_tokens / sum(len(each.events_s) for each in times),
        "gap_ms_p50": percentile(gaps_s, 0.5) * 1e3,
        "gap_ms_p99": percentile(gaps_s, 0.99) * 1e3,
    }


def _alone(clients: Clients, streams: int) -> dict[str, float]:
    """Times to first token with nothing beside, over both edges in turn."""
    found: dict[str, list[float]] = {"grpc": [], "http": []}
    for _ in range(4):
        for edge in ("grpc", "http"):
            times = clients.one_by_one(edge, -(-streams // 4), LONE_TOKENS)
            found[edge] += [each.events_s[0] - each.asked_s for each in times]
    return {f"ttft_{edge}_ms_p50": percentile(each, 0.5) * 1e3 for edge, each in found.items()}


def _cancelled(clients: Clients, count: int) -> dict[str, float]:
    held_s = clients.cancel(count)
    return {f"cancel_ms_{name}": percentile(held_s, q) * 1e3 for name, q in CANCELLED.items()}


def _tell(figures: Mapping[str, float]) -> None:
    table = Table("figure", "value", title="the path around the step")
    for name, value in figures.items():
        table.add_row(name, f"{value:,.3g}" if value < 1000 else f"{value:,.0f}")
    table_console().print(table)
