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


@pytest.fixture(scope="module", params=sorted(VARIANTS))
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of one variant, with a tokenizer."""
    directory = tmp_path_factory.mktemp("oracle") / request.param
    make_checkpoint(directory, request.param, seed=len(request.param))
    return add_tokenizer(directory, VARIANTS[request.param]().vocab_size)


@pytest.mark.parametrize("way", WAYS)
async def test_every_way_gives_the_lone_output(checkpoint: Path, way: str, redis_url: str) -> None:
    asked = jobs(seed=11, vocab_size=VARIANTS[checkpoint.name]().vocab_size)
    async with stack(checkpoint, redis_url, **WAYS[way]) as service:
        outputs = await run(service.target, asked)
    compare_all(outputs, checkpoint, asked, "float32")


async def test_float64_is_exact(checkpoint: Path, redis_url: str) -> None:
    asked = jobs(seed=12, vocab_size=VARIANTS[checkpoint.name]().vocab_size)
    settings = {"dtype": "float64", "num_blocks": 24, "block_size": 8}
    async with stack(
        checkpoint, redis_url, worker_settings=settings, max_step_tokens=24
    ) as service:
        outputs = await run(service.target, asked)
    assert compare_all(outputs, checkpoint, asked, "float64") == 0


async def test_attaching_at_every_offset_gives_the_rest(tmp_path: Path, redis_url: str) -> None:
    checkpoint = add_tokenizer(make_checkpoint(tmp_path / "llama", "llama"), 257)
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
