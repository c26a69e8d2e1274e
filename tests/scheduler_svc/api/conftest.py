"""Each test has a model, and so a shard, of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from scheduler_svc.text.model_card import ModelCard
from stepserve.protocol import inference_rpc as rpc
from tests.scheduler_svc.api.served import Served, serving
from tests.scheduler_svc.frontend.conftest import card, checkpoint

__all__ = ["card", "checkpoint"]


@pytest.fixture
async def served(redis_url: str, card: ModelCard) -> AsyncIterator[Served]:
    async with serving(redis_url, card, grace_s=0.2) as served:
        yield served


@pytest.fixture
async def stub(served: Served) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(served.address) as channel:
        yield rpc.InferenceStub(channel)
