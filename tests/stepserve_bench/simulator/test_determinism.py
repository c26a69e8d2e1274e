"""The same seed gives the same bytes; another one does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from stepserve_bench.simulator.cost import PRESETS
from stepserve_bench.simulator.simulation import Simulation
from stepserve_bench.simulator.streams import Stream, Workload
from stepserve_bench.simulator.system import System
from stepserve_bench.workloads.arrivals import Arrivals, Bursty, ClosedLoop, OnOff, Poisson
from tests.stepserve_bench.simulator.small import Watched

RUN = """
import sys
from stepserve_bench.simulator.command import Simulate
from stepserve.process.command_line import parse_settings
sys.exit(parse_settings(Simulate, "simulate", sys.argv[1:]).run())
"""
FLAGS = "--jobs 60 --rate 40 --workers 3 --tenants a=2,b=1 --policy fair --prefix-tokens 64"


def test_a_seed_gives_the_same_bytes_whatever_the_hashes() -> None:
    lines = [_last_line(*FLAGS.split(), hash_seed=hash_seed) for hash_seed in ("0", "1")]
    assert lines[0] == lines[1]
    assert json.loads(lines[0])["figures"]["jobs"] == 60


def test_small_worlds_are_the_same_again() -> None:
    for seed in range(20):
        figures = [json.dumps(Watched.draw(seed).run().figures()) for _ in range(2)]
        assert figures[0] == figures[1]


@pytest.mark.parametrize("arrivals", [Poisson(50), Bursty(50), OnOff(50, 0.5, 1.0), ClosedLoop(4)])
def test_another_seed_gives_others(arrivals: Arrivals) -> None:
    figures = []
    for seed in (0, 0, 1):
        workload = Workload((Stream(arrivals=arrivals, num_jobs=40),), seed)
        figures.append(Simulation(System(), workload, PRESETS["h200-qwen3-8b"]).run().figures())
    assert figures[0] == figures[1] != figures[2]


def _last_line(*flags: str, hash_seed: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", RUN, *flags],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()[-1]
