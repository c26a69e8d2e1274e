"""Each test has a model, and so a shard, of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from scheduler_svc.text.model_card import ModelCard
from tests.scheduler_svc.frontend.conftest import card, checkpoint
from tests.scheduler_svc.http.served import HttpServed, http_serving

__all__ = ["card", "checkpoint"]


@pytest.fixture
async def served(redis_url: str, card: ModelCard) -> AsyncIterator[HttpServed]:
    async with http_serving(redis_url, replace(card, name=f"tiny-{uuid4().hex[:8]}")) as served:
        yield served


@pytest.fixture(scope="session")
def tiny_card(checkpoint: Path) -> ModelCard:
    return ModelCard.load(checkpoint)
