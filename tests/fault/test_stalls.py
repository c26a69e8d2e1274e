"""Real processes are stopped and killed under load: every stream goes on, and soon.

The bounds here allow for a busy machine; ``stepserve chaos --apart-s 15`` gives the figures.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from scheduler_svc.fleet.watch import SETTLE_S
from scheduler_svc.queue import JobQueue
from tests.fault.faults import FAULTS, struck
from tests.fault.service import FaultyService, faulty_service, make_long_checkpoint
from tests.fault.streams import flowing

NUM_WORKERS, NUM_SCHEDULERS = 2, 2
MAX_STALL_S = 10.0
MAX_WAIT_S = 60.0


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[FaultyService]:
    """Workers and one scheduler; the first test adds the others."""
    checkpoint = make_long_checkpoint(tmp_path_factory.mktemp("fault") / "llama")
    with faulty_service(checkpoint, redis_url) as service:
        service.add_workers(NUM_WORKERS)
        service.add_schedulers(1)
        yield service


@pytest.fixture
async def queue(service: FaultyService) -> AsyncIterator[JobQueue]:
    async with service.queue() as queue:
        yield queue


async def until_driven(service: FaultyService, queue: JobQueue, num_driven: list[int]) -> None:
    async with asyncio.timeout(MAX_WAIT_S):
        while await service.num_driven(queue) != num_driven:
            await asyncio.sleep(0.05)


@pytest.mark.long
async def test_workers_are_assigned_as_schedulers_come(
    service: FaultyService, queue: JobQueue
) -> None:
    await until_driven(service, queue, [NUM_WORKERS])
    async with flowing(service.schedulers[0].fields["grpc"], 9) as streams:
        await streams.flow()
        before = {record.worker_id: record.epoch for record in await queue.workers()}
        service.add_schedulers(NUM_SCHEDULERS - 1)
        await until_driven(service, queue, [1] * NUM_SCHEDULERS)
        # Longer than it takes to hand over again, if anybody wanted to.
        await asyncio.sleep(SETTLE_S + 1)
        after = {record.worker_id: record.epoch for record in await queue.workers()}
        await streams.flow(count=50)
        streams.check_texts()
    assert await service.num_driven(queue) == [1] * NUM_SCHEDULERS
    assert sum(before[worker] == epoch for worker, epoch in after.items()) == 1


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("worker stopped", marks=pytest.mark.long),
        pytest.param("compute thread stopped", marks=pytest.mark.long),
        pytest.param("scheduler killed", marks=pytest.mark.long),
        "worker and scheduler killed",
    ],
)
async def test_streams_go_on_after(name: str, service: FaultyService, queue: JobQueue) -> None:
    if len(service.schedulers) < NUM_SCHEDULERS:
        service.add_schedulers(NUM_SCHEDULERS - len(service.schedulers))
    service.revive()
    await until_driven(service, queue, [1] * NUM_SCHEDULERS)
    async with asyncio.timeout(MAX_WAIT_S):
        async with struck(service, queue, FAULTS[name]) as (streams, worker, struck_s):
            stalls_s = await streams.stalls_s(struck_s)
            streams.check_texts()
            if name == "compute thread stopped":
                while await health(worker.fields["worker"]) == "SERVING":
                    await asyncio.sleep(0.05)
    print(f"{name}: stalls of {stalls_s[-1]:.2f} s at most, {stalls_s[len(stalls_s) // 2]:.2f} s")
    assert stalls_s[-1] < MAX_STALL_S


async def health(target: str) -> str:
    """What a process says of itself; "silent" where it says nothing."""
    async with grpc.aio.insecure_channel(target) as channel:
        try:
            answer = await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=2.0
            )
        except grpc.aio.AioRpcError:
            return "silent"
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
