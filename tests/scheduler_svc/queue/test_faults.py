"""Answers that are lost, servers that hang, are full, forget their scripts, or are read-only."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis import Redis

from scheduler_svc.queue import EmbeddedRedis, JobQueue, Lease, QueueLimits, claiming
from scheduler_svc.queue.keys import Keys
from stepserve.protocol.errors import Exhausted, Unavailable
from tests.scheduler_svc.queue.build import (
    APPLIED,
    EXISTED,
    STOP,
    claim_ids,
    lease_on,
    row,
    running,
    spec,
    submit,
    tokens_of,
)
from tests.scheduler_svc.queue.proxy import LossyProxy

# So many losses that every retry of one call is lost too.
ALL = 3


@pytest.fixture
async def proxy(redis_url: str) -> AsyncIterator[LossyProxy]:
    async with LossyProxy(redis_url) as proxy:
        yield proxy


@pytest.fixture
async def lossy(proxy: LossyProxy, model: str) -> AsyncIterator[JobQueue]:
    async with JobQueue(proxy.url, model) as queue:
        await queue.ping()
        yield queue


async def test_a_lost_answer_is_asked_for_again(lossy: JobQueue, proxy: LossyProxy) -> None:
    asked = spec(idempotency_key="key")
    lease = await lease_on(lossy)
    proxy.num_losses = 1
    assert (await lossy.submit(asked)).existed is False
    proxy.num_losses = 1
    assert await claim_ids(lossy, lease, 1) == [asked.job_id]
    proxy.num_losses = 1
    assert await lossy.commit(lease, [row(asked.job_id, 0, [1])]) in ([APPLIED], [EXISTED])
    assert await lossy.num_queued() == 0
    assert await tokens_of(lossy, asked.job_id) == (1,)
    assert proxy.num_losses == 0


async def test_a_commit_that_seemed_to_fail_exists(lossy: JobQueue, proxy: LossyProxy) -> None:
    lease = await lease_on(lossy)
    job_id = await running(lossy, lease)
    rows = [row(job_id, 0, [1], STOP)]
    proxy.num_losses = ALL
    with pytest.raises(Unavailable):
        await lossy.commit(lease, rows)
    assert await lossy.commit(lease, rows) == [EXISTED]


@pytest.mark.parametrize("num_losses", [ALL, 2 * ALL])
async def test_a_claim_that_seemed_to_fail_comes_with_the_next(
    lossy: JobQueue, proxy: LossyProxy, num_losses: int
) -> None:
    lease = await lease_on(lossy)
    ids = await submit(lossy, 5)
    await claim_ids(lossy, lease, 5)
    await lossy.commit(lease, [row(ids[0], 0, [1])])
    await lossy.requeue(lease, ids)
    proxy.num_losses = num_losses
    for _ in range(num_losses // ALL):
        with pytest.raises(Unavailable):
            await claim_ids(lossy, lease, 3)
    taken = await claim_ids(lossy, lease, 3)
    assert taken == ids[: len(taken)]
    assert await claim_ids(lossy, lease, 5) == ids[len(taken) :]
    await lossy.release(lease)
    assert await lossy.num_queued() == 5


async def test_a_claim_whose_outputs_could_not_be_read_comes_with_the_next(
    queue: JobQueue, redis: Redis, redis_url: str, model: str
) -> None:
    lease = await lease_on(queue)
    job_id = await running(queue, lease)
    await queue.commit(lease, [row(job_id, 0, [1])])
    await queue.requeue(lease, [job_id])
    # The script "read" is the only one that this user may not run: it reads with GETRANGE.
    redis.acl_setuser("half", enabled=True, passwords=["+pw"], commands=["+@all"], keys=["*"])
    redis.acl_setuser("half", enabled=True, commands=["-getrange"])
    async with JobQueue(redis_url.replace("unix://", "unix://half:pw@"), model) as half:
        with pytest.raises(Exception, match=r"getrange|user executing"):
            await claim_ids(half, lease, 1)
        redis.acl_setuser("half", enabled=True, commands=["+getrange"])
        [job] = await half.claim(lease, "fingerprint", 1)
    redis.acl_deluser("half")
    assert (job.spec.job_id, job.outputs[0].token_ids) == (job_id, (1,))


async def test_a_server_that_hangs_is_unavailable_in_time(tmp_path: Path) -> None:
    with EmbeddedRedis.start(tmp_path) as redis:
        assert redis.pid is not None
        async with JobQueue(redis.url, "model", QueueLimits(timeout_s=0.2)) as queue:
            await submit(queue, 1)
            os.kill(redis.pid, signal.SIGSTOP)
            try:
                started = time.monotonic()
                with pytest.raises(Unavailable, match="in time"):
                    await queue.submit(spec())
                assert time.monotonic() - started < 5.0
            finally:
                os.kill(redis.pid, signal.SIGCONT)
            await queue.ping()


async def test_claims_that_failed_are_not_remembered_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(claiming, "_MAX_DOUBTFUL", 3)
    async with JobQueue("redis://127.0.0.1:1", "model") as queue:
        for epoch in range(6):
            with pytest.raises(Unavailable):
                await claim_ids(queue, Lease("worker", "holder", epoch, 1), 1)
        assert list(queue._claiming._doubtful) == [3, 4, 5]


async def test_clients_cannot_starve_the_lanes(redis_url: str, model: str, keys: Keys) -> None:
    limits = QueueLimits(timeout_s=1.0, max_connections=2)
    async with JobQueue(redis_url, model, limits) as queue:
        lease = await lease_on(queue)
        job_id = await running(queue, lease)
        hogs = [
            asyncio.create_task(queue._shard.link.call("BLPOP", keys.job("none"), 0))
            for _ in range(2 * limits.max_connections)
        ]
        await asyncio.sleep(0)
        assert (await queue.renew(lease)).is_ours
        assert await queue.commit(lease, [row(job_id, 0, [1])]) == [APPLIED]
        assert await claim_ids(queue, lease, 1) == []
        assert not any(hog.done() for hog in hogs)
        assert all(
            isinstance(answer, Unavailable)
            for answer in await asyncio.gather(*hogs, return_exceptions=True)
        )


async def test_no_server_is_unavailable() -> None:
    async with JobQueue("redis://127.0.0.1:1", "model") as queue:
        with pytest.raises(Unavailable):
            await queue.ping()
        with pytest.raises(Unavailable):
            await queue.jobs()


async def test_a_full_server_refuses_whole(queue: JobQueue, redis: Redis) -> None:
    [job_id] = await submit(queue, 1)
    lease = await lease_on(queue)
    await claim_ids(queue, lease, 1)
    redis.config_set("maxmemory", 1)
    try:
        refused = spec()
        with pytest.raises(Exhausted, match="memory"):
            await queue.submit(refused)
        with pytest.raises(Unavailable, match=r"OOM|memory"):
            await queue.commit(lease, [row(job_id, 0, [1])])
        assert await queue.job(refused.job_id) is None
        assert await tokens_of(queue, job_id) == ()
    finally:
        redis.config_set("maxmemory", 0)
    assert await queue.commit(lease, [row(job_id, 0, [1])]) == [APPLIED]


async def test_a_server_that_forgot_its_scripts_is_told_them(queue: JobQueue, redis: Redis) -> None:
    lease = await lease_on(queue)
    redis.script_flush()
    job_id = await running(queue, lease)
    redis.script_flush()
    assert await queue.commit(lease, [row(job_id, 0, [1])]) == [APPLIED]
