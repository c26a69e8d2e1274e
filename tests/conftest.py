"""What every test may use: one real Redis for the session, and one thread for tensors."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# Before torch is loaded by any test module: two threads on two busy cores are slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# What a test starts has no current directory on its path, and may be a module of the tests.
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")])
)

from scheduler_svc.queue.embedded import EmbeddedRedis


def pytest_configure(config: pytest.Config) -> None:
    """Let SIGINT interrupt what tests start, as from a terminal, and let what passed pass again.

    A shell starts background jobs with it ignored, and children inherit that. Long tests look
    further, at random.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    settings.register_profile("again", derandomize=True, deadline=None)
    if not config.getoption("hypothesis_profile", None):
        settings.load_profile("again")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse names that are others in another process: the processes of one run share the tests."""
    for item in items:
        if " at 0x" in item.nodeid:
            raise pytest.UsageError(f"{item.nodeid} has an address in its name: give it another")


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Redis. Tests share it: each uses a model name, and so a shard, of its own."""
    redis = EmbeddedRedis.start(tmp_path_factory.mktemp("redis"), "local")
    yield redis.url
    redis.stop()
