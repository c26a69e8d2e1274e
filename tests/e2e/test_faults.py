"""What can be lost is lost on purpose, in the middle of jobs; the outputs are the lone ones."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from scheduler_svc.queue import JobQueue
from scheduler_svc.queue.embedded import EmbeddedRedis
from scheduler_svc.server import scheduler
from scheduler_svc.settings import SchedulerSettings
from stepserve import AsyncClient
from tests.checkpoints import add_tokenizer, make_checkpoint
from tests.e2e.oracle import OracleJob, Output, collect, compare_all, jobs
from tests.e2e.stack import Stack, stack, worker

LEASE_TTL_S = 1.0


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("faults") / "mistral"
    return add_tokenizer(make_checkpoint(directory, "mistral"), 257)


def long_jobs() -> list[OracleJob]:
    return [OracleJob(job.prompt_token_ids, 120, ignore_eos=True) for job in jobs(8, 257, count=6)]


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition that may be a coroutine; the test's own time limit ends it."""
    while True:
        answer = condition()
        if await answer if asyncio.iscoroutine(answer) else answer:
            return
        await asyncio.sleep(0.01)


async def started(queue: JobQueue, job_ids: list[str]) -> None:
    """Wait until every job has some output."""
    for job_id in job_ids:

        async def moves(job_id: str = job_id) -> bool:
            job = await queue.job(job_id)
            return job is not None and job.outputs[0].num_tokens > 2

        await until(moves)


@asynccontextmanager
async def under_way(
    service: Stack,
) -> AsyncIterator[tuple[list[OracleJob], list[asyncio.Task[Output]]]]:
    """Submit jobs, follow them, and yield once all have output."""
    asked = long_jobs()
    async with AsyncClient(service.target) as client:
        job_ids = [await client.submit(job.request()) for job in asked]
        tasks = [asyncio.create_task(collect(client, job_id)) for job_id in job_ids]
        await started(service.queue, job_ids)
        yield asked, tasks


def another_for(service: Stack, checkpoint: Path, redis_url: str) -> SchedulerSettings:
    """Settings of a second scheduler that could drive the same workers."""
    return SchedulerSettings(
        model=str(checkpoint),
        model_name=service.model,
        port=0,
        workers=",".join(service.workers),
        redis_url=redis_url,
        lease_ttl_s=LEASE_TTL_S,
    )


async def test_redis_goes_away_and_comes_back(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The other scheduler sees at once that the lease expired, long before its holder renews it.
    monkeypatch.setattr("scheduler_svc.fleet.watch.LOOK_INTERVAL_S", 0.01)
    with EmbeddedRedis.start(tmp_path) as redis:
        async with (
            stack(checkpoint, redis.url, lease_ttl_s=LEASE_TTL_S) as service,
            scheduler(another_for(service, checkpoint, redis.url)),
            under_way(service) as (asked, tasks),
        ):
            assert redis.pid is not None
            driven = [(worker.holder, worker.epoch) for worker in await service.queue.workers()]
            os.kill(redis.pid, signal.SIGTERM)
            await asyncio.sleep(2 * LEASE_TTL_S)  # longer than the lease: planning stops
            assert not any(task.done() for task in tasks)
            await asyncio.to_thread(redis.ensure_running)
            outputs = await asyncio.gather(*tasks)
            workers = await service.queue.workers()
            assert [(worker.holder, worker.epoch) for worker in workers] == driven, "it was taken"
    compare_all(outputs, checkpoint, asked, "float32")


async def test_another_scheduler_takes_the_worker_over(checkpoint: Path, redis_url: str) -> None:
    async with (
        stack(checkpoint, redis_url, lease_ttl_s=LEASE_TTL_S) as service,
        under_way(service) as (asked, tasks),
    ):
        [record] = await service.queue.workers()
        # The lease as it looks when its holder has been silent for too long: taken over,
        # while the old holder lives on and does not know.
        usurper = await service.queue.acquire(record.worker_id, record.holder, 1000)
        assert usurper is not None
        assert usurper.epoch > record.epoch
        await service.queue.release(usurper)
        outputs = await asyncio.gather(*tasks)
    compare_all(outputs, checkpoint, asked, "float32")


async def test_two_schedulers_share_two_workers_and_one_of_each_stops(
    checkpoint: Path, redis_url: str
) -> None:
    async with stack(checkpoint, redis_url, lease_ttl_s=LEASE_TTL_S) as service:
        async with worker(checkpoint, service.model, num_blocks=40) as second:
            other = SchedulerSettings(
                model=str(checkpoint),
                model_name=service.model,
                port=0,
                workers=second,
                redis_url=redis_url,
                lease_ttl_s=LEASE_TTL_S,
            )
            async with scheduler(other) as running, AsyncClient(running.address) as client:
                await until(lambda: two_workers(service.queue))
                asked = long_jobs()
                job_ids = [await client.submit(job.request()) for job in asked]
                await started(service.queue, job_ids)
            # That scheduler has handed its worker's jobs back; any replica streams them.
        async with AsyncClient(service.target) as client:
            outputs = [await collect(client, job_id) for job_id in job_ids]
    compare_all(outputs, checkpoint, asked, "float32")


async def two_workers(queue: JobQueue) -> bool:
    return len(await queue.workers()) == 2


async def test_a_cancelled_job_leaves_and_the_others_do_not_notice(
    checkpoint: Path, redis_url: str
) -> None:
    settings = {"num_blocks": 32}
    async with (
        stack(checkpoint, redis_url, worker_settings=settings) as service,
        under_way(service) as (asked, tasks),
        AsyncClient(service.target) as client,
    ):
        victim = (await client.list("running"))[0].job_id
        info = await client.cancel(victim)
        outputs = await asyncio.gather(*tasks)
    assert info.state == "ended"
    reasons = [output.finish_reason for output in outputs]
    assert sorted(set(reasons)) == ["cancelled", "length"]
    assert reasons.count("cancelled") == 1
    kept = [i for i, reason in enumerate(reasons) if reason == "length"]
    compare_all([outputs[i] for i in kept], checkpoint, [asked[i] for i in kept], "float32")


async def test_a_deadline_ends_a_job_that_no_worker_takes(checkpoint: Path, redis_url: str) -> None:
    alone = SchedulerSettings(
        model=str(checkpoint), model_name=f"none-{uuid4().hex}", port=0, redis_url=redis_url
    )
    async with scheduler(alone) as running, AsyncClient(running.address) as client:
        done = await client.complete(long_jobs()[0].request(), deadline_s=0.05)
    assert done.outputs[0].finish_reason == "deadline"
    assert done.outputs[0].token_ids == ()
