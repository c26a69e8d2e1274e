"""Real lanes under load, recorded: too few blocks, cancelled jobs, a worker that goes away."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import uuid4

from scheduler_svc.server import scheduler
from scheduler_svc.settings import SchedulerSettings
from stepserve import AsyncClient
from stepserve.protocol.inference import Request
from stepserve.protocol.sampling import SamplingParams
from tests.checkpoints import add_tokenizer, make_checkpoint
from tests.e2e.stack import worker

TENANTS = ("acme-secret", "bolt-secret")
VOCAB_SIZE = 257
NUM_JOBS = 24
# The second worker, which stays to the end, has room for one long job and little else.
WORKER_BLOCKS = (40, 16)


def checkpoint(directory: Path) -> Path:
    return add_tokenizer(make_checkpoint(directory / "llama", "llama"), VOCAB_SIZE)


def requests(seed: int) -> list[Request]:
    """Jobs of two tenants, some with prefixes, stop strings or several outputs in common."""
    chance = random.Random(seed)
    shared = _tokens(chance, 40)
    return [
        Request(
            prompt_token_ids=shared[: chance.choice((0, 16, 40))] + _tokens(chance, 12),
            sampling=SamplingParams(
                max_tokens=chance.choice((3, 60, 60)),
                ignore_eos=True,
                temperature=chance.choice((0.0, 1.0)),
                stop=("ab", "%") if chance.random() < 0.3 else (),
                stop_token_ids=(11,),
                logit_bias={12: 0.125},
                logprobs=2 if chance.random() < 0.3 else None,
                prompt_logprobs=chance.choice((None, None, 1)),
                n=chance.choice((1, 1, 2)),
                seed=number,
            ),
            tenant=TENANTS[number % 2],
            priority=number % 3,
            deadline_s=chance.choice((0.0, 600.0)),
            idempotency_key=f"retry-{uuid4().hex}",
        )
        for number in range(NUM_JOBS)
    ]


async def record(model: Path, redis_url: str, directory: Path, asked: list[Request]) -> None:
    """Run the jobs; cancel two, and stop a worker while they run."""
    name = f"{model.name}-{uuid4().hex[:8]}"
    async with AsyncExitStack() as workers:
        leaving = AsyncExitStack()
        await workers.enter_async_context(leaving)
        addresses = [
            await stack.enter_async_context(worker(model, name, num_blocks=num_blocks))
            for stack, num_blocks in zip((leaving, workers), WORKER_BLOCKS, strict=True)
        ]
        settings = SchedulerSettings(
            model=str(model),
            model_name=name,
            port=0,
            workers=",".join(addresses),
            redis_url=redis_url,
            policy="priority",
            preemption_margin_s=1.0,
            max_step_tokens=48,
            record_events_dir=str(directory),
        )
        async with scheduler(settings) as running, AsyncClient(running.address) as client:
            while len(await running.queue.workers()) < len(addresses):
                await asyncio.sleep(0.01)
            await _load(client, asked, leaving)


def traces_of(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.events.jsonl"))


async def _load(client: AsyncClient, asked: list[Request], leaving: AsyncExitStack) -> None:
    job_ids = [await client.submit(request) for request in asked]
    await _ended(client, 4)
    running = await client.list("running")
    for job in running[:2]:
        await client.cancel(job.job_id)
    await leaving.aclose()
    await _ended(client, len(job_ids))


async def _ended(client: AsyncClient, count: int) -> None:
    while len(await client.list("ended", limit=1000)) < count:
        await asyncio.sleep(0.01)


def _tokens(chance: random.Random, count: int) -> list[int]:
    return [chance.randrange(1, VOCAB_SIZE) for _ in range(count)]
