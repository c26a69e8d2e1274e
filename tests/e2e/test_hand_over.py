"""Workers change hands in mid-stream: outputs are the lone ones, and nothing is computed twice."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
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
