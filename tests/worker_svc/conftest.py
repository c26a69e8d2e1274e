"""One small checkpoint, and a worker's parts assembled from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.checkpoints import make_checkpoint
from worker_svc.assembled import Assembly
from worker_svc.assembly import assemble
from worker_svc.runner import Runner
from worker_svc.settings import WorkerSettings

Assemble = Callable[..., Assembly]


@pytest.fixture(scope="session", autouse=True)
def _single_thread() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama, vocabulary 257, context 512; not to be changed."""
    return make_checkpoint(tmp_path_factory.mktemp("small"), "llama", seed=3)


@pytest.fixture(scope="session")
def assembled(small_checkpoint: Path) -> Assemble:
    """A fresh worker in float64 with few, small blocks; settings can be overridden."""

    def make(**overrides: Any) -> Assembly:
        values: dict[str, Any] = {
            "model": str(small_checkpoint),
            "port": 0,
            "dtype": "float64",
            "device": "cpu",
            "kernels": "torch",
            "block_size": 4,
            "num_blocks": 64,
            "max_batch_size": 6,
            "max_step_tokens": 64,
            "max_kept_reports": 8,
        }
        return assemble(WorkerSettings(**values | overrides), "me")

    return make


@pytest.fixture
def runner(assembled: Assemble) -> Runner:
    """A fresh runner."""
    return assembled().runner
