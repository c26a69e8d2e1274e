"""What a checkpoint's JSON files say of ends and contexts, from a submit to its last token."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stepserve import AsyncClient, Request, SamplingParams
from tests.checkpoints import LoneRun, lone_greedy, make_checkpoint
from tests.e2e.stack import Stack, stack
from tests.worker_svc.model.paged import random_tokens

MAX_TOKENS = 12
IN_FLOAT64 = {"dtype": "float64", "kernels": "torch"}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return make_checkpoint(tmp_path / "small", "llama", seed=8)


def edit(path: Path, **values: Any) -> None:
    before = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**before, **values}))


async def generate(service: Stack, prompt: list[int]) -> tuple[list[int], str]:
    """The tokens of a greedy job, and why it ended."""
    sampling = SamplingParams(temperature=0, max_tokens=MAX_TOKENS)
    tokens: list[int] = []
    async with AsyncClient(service.target) as client:
        async for event in client.generate(Request(prompt_token_ids=prompt, sampling=sampling)):
            tokens += event.token_ids
    assert event.finish is not None
    return tokens, event.finish.reason


async def test_ids_that_no_token_has_end_nothing_and_stop_nobody(
    checkpoint: Path, redis_url: str
) -> None:
    prompt = random_tokens(257, 9, seed=1)
    alone = lone_greedy(checkpoint, prompt, MAX_TOKENS, stop_token_ids=())
    end = alone.tokens[5]
    edit(checkpoint / "generation_config.json", eos_token_id=[-1, 2**32, end, 5000])
    async with stack(checkpoint, redis_url, worker_settings=IN_FLOAT64) as service:
        tokens, reason = await generate(service, prompt)
    assert tokens == alone.tokens[: alone.tokens.index(end) + 1]
    assert reason == "stop"


YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}


@pytest.mark.parametrize(
    ("scaling", "max_context"), [(YARN, None), (None, 600)], ids=["yarn", "--max-context"]
)
async def test_a_prompt_beyond_what_was_trained_is_served(
    checkpoint: Path, redis_url: str, scaling: dict[str, Any] | None, max_context: int | None
) -> None:
    edit(
        checkpoint / "config.json",
        max_position_embeddings=256,
        rope_parameters=None,
        rope_scaling=scaling,
    )
    prompt = random_tokens(257, 400, seed=2)
    alone: LoneRun = lone_greedy(checkpoint, prompt, MAX_TOKENS)
    settings = {**IN_FLOAT64, "max_context": max_context}
    async with stack(checkpoint, redis_url, worker_settings=settings) as service:
        async with AsyncClient(service.target) as client:
            (model,) = await client.models()
        tokens, _ = await generate(service, prompt)
    assert model.max_context == (max_context or 4 * 256)
    assert tokens == alone.tokens
