"""``stepserve bench path`` measures what it says, over both edges: how, not how fast."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stepserve.process.command_line import parse_settings
from stepserve_bench.path.command import PathBench

FEW = "--streams 4 --tokens 12 --lone 4 --step-ms 2"
COSTS = ("redis_us", "worker_us", "start_redis_us", "start_worker_us")


@pytest.mark.long
@pytest.mark.parametrize(
    ("flags", "schedulers"),
    [("--roles all", ("scheduler",)), ("--roles apart --edge http --clients 2", ("lane", "api"))],
)
def test_every_process_and_both_edges_are_measured(
    flags: str,
    schedulers: tuple[str, ...],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "figures.json"
    bench = parse_settings(PathBench, "stepserve bench path", f"{FEW} {flags} --out {out}".split())
    assert bench.run() == 0
    figures = json.loads(capfd.readouterr().out.splitlines()[-1])
    costs = [*COSTS, *(f"{prefix}{name}_us" for name in schedulers for prefix in ("", "start_"))]
    assert all(figures[name] >= 0 for name in costs)
    assert figures["tokens_per_scheduler_core_s"] > 0
    assert 1 <= figures["tokens_per_event"] <= 12
    assert figures["ttft_grpc_ms_p50"] > 0
    assert figures["ttft_http_ms_p50"] > 0
    assert 0 < figures["cancel_ms_p50"] <= figures["cancel_ms_p99"]
    assert 0 <= figures["idle_share"] < 1
    assert json.loads(out.read_text())["options"]["streams"] == 4
