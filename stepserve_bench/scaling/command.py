"""``stepserve bench scaling``: more workers, more schedulers, and how much more comes of it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict
from rich.table import Table

from stepserve.protocol.errors import InvalidRequest
from stepserve_bench.report.machine import machine
from stepserve_bench.report.output import finish
from stepserve_bench.report.tables import table_console
from stepserve_bench.scaling.service import Size, measure

# A column's head, and the figure in it.
COLUMNS = {
    "workers": "workers",
    "scheds": "schedulers",
    "tok/s": "tokens_per_s",
    "ideal": "ideal_tokens_per_s",
    "share": "share_of_ideal",
    "jobs/s": "jobs_per_s",
    "commits/s": "commits_per_s",
    "tok/s a Redis core": "tokens_per_redis_core_s",
}


class ScalingBench(BaseSettings):
    """Measure jobs and tokens a second for more and more workers and schedulers.

    Workers are oracle workers, whose device only sleeps: each could give --places tokens every
    --step-ms, and so many workers so many times as much, which is the ideal line. All else is
    real. Every place is kept full. Beside the rates stand the cores that each process kept busy,
    what Redis does per core of its own, and what limits first where the line is left: a process
    that fills a core, all cores of the machine, or waiting. Clients run here as well, and take
    their share of the machine.
    """

    model_config = SettingsConfigDict(
        env_prefix="STEPSERVE_BENCH_SCALING_", env_ignore_empty=True, frozen=True
    )

    workers: str = Field("1,2,4,8", description="numbers of workers, N[,N]")
    schedulers: str = Field("1,2,3", description="numbers of schedulers, N[,N]")
    places: int = Field(16, ge=1, le=512, description="sequences that a worker runs at a time")
    step_ms: float = Field(50.0, gt=0, description="how long a step takes a worker's device")
    tokens: int = Field(100, ge=1, le=900, description="tokens of each job")
    seconds: float = Field(15.0, gt=0, description="how long each is measured")
    clients: int = Field(1, ge=1, le=16, description="client processes")
    out: str = Field("", description="also write the figures to this JSON file")

    def run(self) -> int:
        """Measure; the last line printed is a JSON object with the figures."""
        rows = []
        for schedulers in _numbers("schedulers", self.schedulers):
            for workers in _numbers("workers", self.workers):
                told = f"{workers} workers, {schedulers} schedulers ..."
                print(f"stepserve bench scaling: {told}", file=sys.stderr, flush=True)
                size = Size(workers, schedulers, self.places, self.step_ms)
                rows.append(measure(size, self.tokens, self.seconds, self.clients))
        _print(rows)
        settings = self.model_dump(exclude={"out"})
        finish({"settings": settings, "measured": rows, "machine": machine()}, self.out)
        return 0


def _numbers(name: str, text: str) -> list[int]:
    """Raises InvalidRequest."""
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise InvalidRequest(name, f"{text!r} is not N[,N], each at least 1")
    return found


def _print(rows: Sequence[dict[str, Any]]) -> None:
    table = Table(*COLUMNS, title="all places full")
    for row in rows:
        table.add_row(*(f"{row[name]:g}" for name in COLUMNS.values()))
    console = table_console()
    console.print(table)
    for row in rows:
        busy = ", ".join(f"{name} {cores:.2f}" for name, cores in row["cores"].items())
        limit = row["first_limit"] or "none"
        console.print(f"{row['workers']} workers, {row['schedulers']} schedulers: limit {limit}")
        console.print(f"    cores: {busy}")
