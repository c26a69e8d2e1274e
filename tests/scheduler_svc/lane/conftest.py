from __future__ import annotations

from pathlib import Path

import pytest

from tests.checkpoints import add_tokenizer, lone_greedy, make_checkpoint
from tests.scheduler_svc.lane.driving import NUM_TOKENS, PROMPT


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("lane") / "llama"
    return add_tokenizer(make_checkpoint(directory, "llama", dtype="float64"), 257)


@pytest.fixture(scope="session")
def alone(checkpoint: Path) -> tuple[int, ...]:
    """What the job gives alone: exactly, in float64."""
    return tuple(lone_greedy(checkpoint, PROMPT, NUM_TOKENS, "float64", ()).tokens)
