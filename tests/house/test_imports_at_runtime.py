"""What an import really loads, in a fresh interpreter."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TENSORS = {"torch", "triton", "transformers", "numba", "numpy", "safetensors"}

IMPORT_ALL_OF_SCHEDULER = """
import importlib, pkgutil, scheduler_svc
names = [m.name for m in pkgutil.walk_packages(scheduler_svc.__path__, "scheduler_svc.")]
assert len(names) > 10, names
for name in names:
    importlib.import_module(name)
"""

PARSE_SCHEDULER = """
from stepserve.cli import parse
parse(["scheduler", "--model", "m", "--redis-url", "redis://localhost:1/0"])
"""


def loaded_after(code: str) -> set[str]:
    """Return the top-level names of all modules that are loaded once the code has run."""
    report = "import json, sys; print(json.dumps([n.partition('.')[0] for n in sys.modules]))"
    command = [sys.executable, "-c", f"{code}\n{report}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


def test_scheduler_loads_no_tensor_library() -> None:
    loaded = loaded_after(IMPORT_ALL_OF_SCHEDULER)
    assert {"scheduler_svc", "redis"} <= loaded
    assert loaded & (TENSORS | {"worker_svc"}) == set()


def test_scheduler_command_loads_no_tensor_library() -> None:
    loaded = loaded_after(PARSE_SCHEDULER)
    assert "scheduler_svc" in loaded
    assert loaded & TENSORS == set()


def test_who_starts_the_ranks_of_a_worker_loads_no_tensor_library() -> None:
    loaded = loaded_after("import worker_svc.__main__, worker_svc.group.launcher")
    assert "worker_svc" in loaded
    assert loaded & TENSORS == set()


def test_client_loads_neither_service() -> None:
    loaded = loaded_after("import stepserve.cli; from stepserve import *")
    assert "stepserve" in loaded
    others = {"redis", "kvstore", "scheduler_svc", "worker_svc", "stepserve_bench"}
    assert loaded & (TENSORS | others) == set()


def test_core_loads_no_io() -> None:
    loaded = loaded_after("import scheduler_svc.core.scheduler")
    assert loaded & (TENSORS | {"asyncio", "grpc", "redis", "pydantic", "socket", "ssl"}) == set()
