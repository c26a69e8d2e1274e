"""Workers change hands in mid-stream: outputs are the lone ones, and nothing is computed twice."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from scheduler_svc.server import scheduler
from scheduler_svc.settings import SchedulerSettings
from stepserve import AsyncClient
from tests.checkpoints import add_tokenizer, make_checkpoint
from tests.e2e.oracle import OracleJob, collect, compare_all
from tests.e2e.positions import num_needed, num_positions
from tests.e2e.stack import worker
from tests.e2e.test_faults import started

LEASE_TTL_S = 1.0
NUM_TOKENS = 60
# Of different lengths and beginnings: nothing is found in another's blocks.
JOBS = [OracleJob([100 + i, *range(1, 20 + 3 * i)], NUM_TOKENS, ignore_eos=True) for i in range(3)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("hand-over") / "llama"
    return add_tokenizer(make_checkpoint(directory, "llama"), 257)


async def test_a_scheduler_that_ends_leaves_its_workers_as_they_are(
    checkpoint: Path, redis_url: str, tmp_path: Path
) -> None:
    async with worker(checkpoint, "handed-over") as address:
        settings = SchedulerSettings(
            model=str(checkpoint),
            model_name="handed-over",
            port=0,
            workers=address,
            redis_url=redis_url,
            lease_ttl_s=LEASE_TTL_S,
            record_dir=str(tmp_path),
        )
        async with AsyncExitStack() as stack:
            first = AsyncExitStack()
            leaving = await first.enter_async_context(scheduler(settings))
            async with AsyncClient(leaving.address) as client:
                job_ids = [await client.submit(job.request()) for job in JOBS]
                await started(leaving.queue, job_ids)
            staying = await stack.enter_async_context(scheduler(settings))
            await first.aclose()
            assert await staying.queue.num_queued() == 0
            async with AsyncClient(staying.address) as client:
                outputs = await asyncio.gather(*(collect(client, job_id) for job_id in job_ids))
    compare_all(outputs, checkpoint, JOBS, "float32")
    assert num_positions(tmp_path) == num_needed(JOBS)


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_a_worker_is_left_to_a_scheduler_that_has_fewer(
    checkpoint: Path, redis_url: str, tmp_path: Path
) -> None:
    asked = [replace(job, max_tokens=400) for job in JOBS]
    model = "rebalanced"
    async with worker(checkpoint, model) as first, worker(checkpoint, model) as second:
        settings = SchedulerSettings(
            model=str(checkpoint),
            model_name=model,
            port=0,
            workers=f"{first},{second}",
            redis_url=redis_url,
            record_dir=str(tmp_path),
        )
        async with scheduler(settings) as alone, AsyncClient(alone.address) as client:
            while len(await alone.queue.workers()) < 2:
                await asyncio.sleep(0.02)
            async with scheduler(settings):
                job_ids = [await client.submit(job.request()) for job in asked]
                tasks = [asyncio.create_task(collect(client, job_id)) for job_id in job_ids]
                while len({w.holder for w in await alone.queue.workers()}) < 2:
                    await asyncio.sleep(0.02)
                assert not all(task.done() for task in tasks)
                outputs = await asyncio.gather(*tasks)
    compare_all(outputs, checkpoint, asked, "float32")
    assert num_positions(tmp_path) == num_needed(asked)
