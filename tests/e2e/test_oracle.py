"""The oracle: 32 concurrent jobs through gRPC and Redis give what each gives alone."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from stepserve import AsyncClient
from tests.checkpoints import VARIANTS, add_tokenizer, make_checkpoint
from tests.e2e.oracle import OracleJob, Output, collect, compare_all, jobs
from tests.e2e.stack import stack

# Each way of running the same jobs. "tight" has too few blocks for all who run: they are
# preempted and computed again.
WAYS: dict[str, dict[str, Any]] = {
    "default": {},
    "tight": {"worker_settings": {"num_blocks": 12, "block_size": 16}},
    "chunks": {"max_step_tokens": 16, "worker_settings": {"block_size": 8}},
    "depth-1": {"max_steps_in_flight": 1, "worker_settings": {"block_size": 32}},
    "tight-chunks-depth-3": {
        "max_step_tokens": 16,
        "max_steps_in_flight": 3,
        "worker_settings": {"num_blocks": 20, "block_size": 8},
    },
}


async def run(target: str, asked: list[OracleJob]) -> list[Output]:
    """Submit all at once, follow each."""
    async with AsyncClient(target) as client:
        job_ids = await asyncio.gather(*(client.submit(job.request()) for job in asked))
        return await asyncio.gather(*(collect(client, job_id) for job_id in job_ids))


# In make test each variant in one way and one of each family in a second, so that each way has
# three; the whole product, with other jobs, is for `make test-long`.
NAMES = sorted(VARIANTS)
SECOND_WAYS = {
    "llama3-rope": "default",
    "mistral-window": "chunks",
    "qwen2-window": "tight-chunks-depth-3",
    "qwen3-layer-types": "tight",
}
IN_CI = [
    *((variant, list(WAYS)[i % len(WAYS)]) for i, variant in enumerate(NAMES)),
    *SECOND_WAYS.items(),
]


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a checkpoint of each variant, with tokenizers."""
    root = tmp_path_factory.mktemp("oracle")
    for variant in VARIANTS:
        make_checkpoint(root / variant, variant, seed=len(variant))
        add_tokenizer(root / variant, VARIANTS[variant]().vocab_size)
    return root


async def check_way(checkpoint: Path, way: str, redis_url: str, seed: int) -> None:
    asked = jobs(seed, VARIANTS[checkpoint.name]().vocab_size)
    async with stack(checkpoint, redis_url, **WAYS[way]) as service:
        outputs = await run(service.target, asked)
    compare_all(outputs, checkpoint, asked, "float32")


@pytest.mark.parametrize(("variant", "way"), IN_CI)
async def test_any_way_gives_the_lone_output(
    checkpoints: Path, redis_url: str, variant: str, way: str
) -> None:
    await check_way(checkpoints / variant, way, redis_url, seed=11)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("variant", NAMES)
async def test_the_whole_product(
    checkpoints: Path, redis_url: str, variant: str, way: str, seed: int
) -> None:
    await check_way(checkpoints / variant, way, redis_url, seed)


@pytest.mark.parametrize(
    "variant",
    [
        pytest.param("llama3-rope", marks=pytest.mark.long),
        pytest.param("mistral-window", marks=pytest.mark.long),
        "qwen2-window",
        "qwen3-layer-types",
    ],
)
async def test_float64_is_exact(checkpoints: Path, redis_url: str, variant: str) -> None:
    asked = jobs(seed=12, vocab_size=VARIANTS[variant]().vocab_size)
    settings = {"dtype": "float64", "num_blocks": 24, "block_size": 8}
    async with stack(
        checkpoints / variant, redis_url, worker_settings=settings, max_step_tokens=24
    ) as service:
        outputs = await run(service.target, asked)
    assert compare_all(outputs, checkpoints / variant, asked, "float64") == 0


async def test_attaching_at_every_offset_gives_the_rest(checkpoints: Path, redis_url: str) -> None:
    checkpoint = checkpoints / "llama"
    job = OracleJob([5, 6, 7], 24, ignore_eos=True)
    async with stack(checkpoint, redis_url) as service, AsyncClient(service.target) as client:
        job_id = await client.submit(job.request())
        # Some of these attach while it runs, some after its end; all see the same log.
        rests = await asyncio.gather(
            *(collect(client, job_id, offset) for offset in range(job.max_tokens + 1))
        )
        again = [await collect(client, job_id, offset) for offset in range(job.max_tokens + 1)]
    compare_all([rests[0]], checkpoint, [job], "float32")
    for offset, (rest, later) in enumerate(zip(rests, again, strict=True)):
        assert rest.token_ids == later.token_ids == rests[0].token_ids[offset:]
        assert rest.text == later.text
        assert rests[0].text.endswith(rest.text)
        assert rest.finish_reason == later.finish_reason == "length"
