"""How much of a prompt was cached is what the lane's cache had, and outlives the lane."""

from __future__ import annotations

import asyncio
from pathlib import Path
from uuid import uuid4

from stepserve.protocol.job import JobSpec
from stepserve.protocol.sampling import Sampling
from tests.scheduler_svc.lane.driving import NUM_TOKENS, Service, driving, service, working
from tests.scheduler_svc.queue.build import within

# Two blocks of 16, and some.
PROMPT = tuple(range(5, 45))


async def submit(it: Service, max_tokens: int, tenant: str = "") -> str:
    sampling = Sampling(max_tokens=max_tokens, temperature=0.0, ignore_eos=True)
    spec = JobSpec(uuid4().hex, it.replica.card.name, PROMPT, sampling, tenant=tenant)
    return (await it.queue.submit(spec)).job_id


async def cached(it: Service, job_id: str) -> int | None:
    await it.ended(job_id)
    return (await it.job(job_id)).num_cached


async def test_it_is_the_caches_and_stays_when_another_lane_goes_on(
    checkpoint: Path, redis_url: str
) -> None:
    async with service(checkpoint, redis_url) as it, working(it) as address:
        async with driving(it, address, dies=True):
            assert await cached(it, await submit(it, 3)) == 0
            assert await cached(it, await submit(it, 3, "another")) == 0, "no other tenant's"
            long = await submit(it, NUM_TOKENS)
            await it.under_way(long)
            assert (await it.job(long)).num_cached == 32
        async with driving(it, address) as driven:
            assert driven.taken.adoption is not None
            assert await cached(it, long) == 32
            assert await cached(it, await submit(it, 3)) == 32, "what it took over is cached"
            async with within():
                while driven.lane._held.ids:
                    await asyncio.sleep(0.01)
            assert not driven.lane._held.cached
