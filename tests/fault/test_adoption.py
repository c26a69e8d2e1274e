"""A scheduler's process is killed, or asked to end, in mid-stream: nothing is computed twice."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from stepserve import AsyncClient
from tests.e2e.oracle import OracleJob, collect, compare_all
from tests.e2e.positions import num_needed, num_positions
from tests.e2e.test_faults import started
from tests.fault.service import FaultyService, faulty_service, make_long_checkpoint

NUM_TOKENS = 400
MAX_WAIT_S = 120.0
JOBS = [OracleJob([100 + i, *range(1, 20 + 9 * i)], NUM_TOKENS, ignore_eos=True) for i in range(6)]


@pytest.fixture
def service(tmp_path: Path, redis_url: str) -> Iterator[FaultyService]:
    checkpoint = make_long_checkpoint(tmp_path / "llama")
    with faulty_service(checkpoint, redis_url) as service:
        service.record_dir = tmp_path / "steps"
        service.add_workers(1)
        service.add_schedulers(2)
        yield service


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
async def test_no_token_is_computed_twice(service: FaultyService, signum: signal.Signals) -> None:
    async with service.queue() as queue, asyncio.timeout(MAX_WAIT_S):
        while not (records := await queue.workers()):
            await asyncio.sleep(0.05)
        struck = service.holder_of(records[0].holder)
        other = next(child for child in service.schedulers if child is not struck)
        async with AsyncClient(other.fields["grpc"]) as client:
            job_ids = [await client.submit(job.request()) for job in JOBS]
            tasks = [asyncio.create_task(collect(client, job_id)) for job_id in job_ids]
            await started(queue, job_ids)
            struck.process.send_signal(signum)
            outputs = await asyncio.gather(*tasks)
        [after] = await queue.workers()
        assert service.holder_of(after.holder) is other
    assert service.record_dir is not None
    assert num_positions(service.record_dir) == num_needed(JOBS)
    compare_all(outputs, service.checkpoint, JOBS, "float64")
