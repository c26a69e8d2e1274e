"""Each test has a model, and so a shard, of its own."""

from __future__ import annotations

import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from scheduler_svc.text.model_card import ModelCard
from tests.scheduler_svc.text.checkpoints import write_checkpoint


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture
def card(checkpoint: Path) -> ModelCard:
    return replace(ModelCard.load(checkpoint), name=f"tiny-{uuid.uuid4().hex[:8]}")
