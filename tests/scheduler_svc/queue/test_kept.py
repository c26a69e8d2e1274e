"""Who claimed a job keeps all that its record had, should Redis lose it."""

from __future__ import annotations

import math
import struct
import time
from dataclasses import replace

import pytest
from redis import Redis

from scheduler_svc.queue import JobQueue, num_missing
from scheduler_svc.queue.keys import Keys
from scheduler_svc.queue.quota import Quota, QuotaExceeded
from scheduler_svc.queue.recent import RecentJobs
from stepserve.protocol.errors import InvalidRequest
from stepserve.protocol.job import JobSpec
from tests.scheduler_svc.queue.build import FINGERPRINT, claim_ids, lease_on, row, running, spec

QUOTA = Quota("key", weight=2.0, requests_per_minute=3, tokens_per_minute=5000, max_jobs=1)
# What a job gets where it waits, and not from who stored it.
MOVING = {b"deadline", b"within", b"claim"}


async def lose_all(queue: JobQueue, redis: Redis, *, is_ours: bool = False) -> None:
    """As a server that was promoted and has nothing; ``is_ours``: what was stored, we stored."""
    redis.flushall()
    await queue._mending.look()
    queue._mending._continuity.note({"run_id": "of the server before"})
    if not is_ours:
        queue._submitting._recent = type(queue._submitting._recent)()


async def a_lost_job(queue: JobQueue, redis: Redis, keys: Keys, **more: object) -> JobSpec:
    """One that was struck, begun anew and moved, as a lane holds it."""
    asked = spec(tenant="tenant", idempotency_key="key", deadline_s=60.0, priority=3, n=2)
    await queue.submit(asked, "digest", "edge's", quota=QUOTA)
    told = {"restarts": 2, "strikes": 1, "problem": "it crashed", "losses": 1, "lost_at": 4}
    redis.hset(keys.job(asked.job_id), mapping={**told, "need": 200, "turn": "5.000000", **more})
    lease = await queue.acquire("worker", "holder", 60_000, None, "incarnation")
    assert lease is not None
    redis.zadd(keys.claims("worker"), {asked.job_id: 1.0})
    redis.zrem(keys.queue, asked.job_id)
    [job] = await queue.inherit(lease, FINGERPRINT)
    return job.spec


async def test_a_job_that_is_stored_again_has_the_record_that_it_had(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    lost = await a_lost_job(queue, redis, keys, started="6.000000")
    before = redis.hgetall(keys.job(lost.job_id))
    await lose_all(queue, redis)
    assert await queue.restore(lost, has_output=False)
    after = redis.hgetall(keys.job(lost.job_id))
    assert {k: v for k, v in after.items() if k not in MOVING} == {
        k: v for k, v in before.items() if k not in MOVING
    }
    assert await queue.edge_of(lost.job_id) == "edge's"
    assert redis.zscore(keys.suspects, lost.job_id) == 1
    assert redis.zscore(keys.jobs, lost.job_id) == 5.0


async def test_an_idempotent_repeat_finds_it_and_another_request_does_not(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    lost = await a_lost_job(queue, redis, keys)
    await lose_all(queue, redis)
    assert await queue.restore(lost, has_output=False)
    assert await queue.stored_for("tenant", "key", ["digest"]) == lost.job_id
    repeat = spec(tenant="tenant", idempotency_key="key", n=2)
    assert (await queue.submit(repeat, "digest", quota=QUOTA)).job_id == lost.job_id
    with pytest.raises(InvalidRequest, match="another request"):
        await queue.submit(spec(tenant="tenant", idempotency_key="key"), "of another")


async def test_it_counts_against_its_key_and_is_never_refused_by_it(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    lost = await a_lost_job(queue, redis, keys)
    await lose_all(queue, redis)
    await queue.submit(spec(), quota=QUOTA)
    assert await queue.restore(lost, has_output=False)
    with pytest.raises(QuotaExceeded, match="1 jobs at once"):
        await queue.submit(spec(), quota=QUOTA)


async def test_what_clients_have_seen_goes_on_by_the_same_model_alone(
    queue: JobQueue, redis: Redis
) -> None:
    lease = await lease_on(queue)
    job_id = await running(queue, lease)
    await queue.commit(lease, [row(job_id, 0, [1])])
    [job] = await queue.inherit(lease, FINGERPRINT)
    await lose_all(queue, redis)
    assert await queue.restore(job.spec, has_output=True)
    lease = await lease_on(queue)
    assert await claim_ids(queue, lease, 1, "another") == []
    assert await claim_ids(queue, lease, 1) == [job_id]


async def test_a_record_of_a_version_that_kept_less_is_stored_again(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    lost = await a_lost_job(queue, redis, keys)
    for name in ("bounds", "request"):
        lost.record.pop(name)  # type: ignore[attr-defined]
    await lose_all(queue, redis)
    assert await queue.restore(lost, has_output=False)
    # Whose request it was nobody knows: any by its key is taken for it.
    repeat = spec(tenant="tenant", idempotency_key="key", n=2)
    assert (await queue.submit(repeat, "digest")).job_id == lost.job_id


@pytest.mark.parametrize("most_tokens", [0, 5000])
async def test_whose_bounds_were_not_kept_fills_nobody_s_bucket(
    queue: JobQueue, redis: Redis, keys: Keys, most_tokens: int
) -> None:
    """A promoted server has what was left of the key's minute, and not the job."""
    quota = replace(QUOTA, tokens_per_minute=most_tokens, max_jobs=9)
    asked = spec(prompt=(1,) * 10)
    await queue.submit(asked, quota=quota)
    [job] = await queue.claim(await lease_on(queue), FINGERPRINT, 1)
    job.spec.record.pop("bounds")  # type: ignore[attr-defined]
    left = struct.pack("<dddd", 0.5, 110.0, time.time(), 3.0)
    await lose_all(queue, redis)
    await queue.submit(spec())  # somebody's, so that a count of jobs means something
    redis.hset(keys.quotas, quota.key_id, left)
    assert await queue.restore(job.spec, has_output=False)
    requests, tokens, _, jobs = struct.unpack("<dddd", redis.hget(keys.quotas, quota.key_id))
    assert (requests, tokens, jobs) == (-0.5, 0.0 if most_tokens else math.inf, 4.0)
    with pytest.raises(QuotaExceeded, match="3 requests a minute"):
        await queue.submit(spec(), quota=quota)
    await queue.cancel(asked.job_id)
    _, tokens, _, jobs = struct.unpack("<dddd", redis.hget(keys.quotas, quota.key_id))
    assert (tokens, jobs) == (100.0 if most_tokens else math.inf, 3.0)


async def test_who_stored_it_first_does_not_make_it_another_s(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    lost = await a_lost_job(queue, redis, keys, started="6.000000")
    redis.hset(keys.job(lost.job_id), "fingerprint", FINGERPRINT)
    await lose_all(queue, redis, is_ours=True)
    assert await queue.restore(lost, has_output=True)
    after = redis.hgetall(keys.job(lost.job_id))
    told = (b"fingerprint", b"restarts", b"strikes", b"started", b"need")
    assert [after[name] for name in told] == [FINGERPRINT.encode(), b"2", b"1", b"6.000000", b"200"]
    assert redis.zscore(keys.suspects, lost.job_id) == 1


@pytest.mark.parametrize(("num_bytes", "is_kept"), [(4096, True), (4097, False)])
async def test_a_large_edge_is_not_claimed_with_its_job(
    queue: JobQueue, num_bytes: int, is_kept: bool
) -> None:
    asked = spec()
    await queue.submit(asked, edge="e" * num_bytes)
    [job] = await queue.claim(await lease_on(queue), FINGERPRINT, 1)
    assert len(await queue.edge_of(asked.job_id) or "") == num_bytes
    assert ("edge" in job.spec.record) is is_kept
    assert num_missing(job.spec.record) == (0 if is_kept else num_bytes)


async def test_who_stored_a_job_adds_the_edge_that_its_lane_had_not(
    queue: JobQueue, redis: Redis
) -> None:
    asked = spec(idempotency_key="key")
    await queue.submit(asked, edge="e" * 5000)
    [job] = await queue.claim(await lease_on(queue), FINGERPRINT, 1)
    stored, queue._submitting._recent = queue._submitting._recent, RecentJobs()
    await lose_all(queue, redis, is_ours=True)
    assert await queue.restore(job.spec, has_output=False)
    assert await queue.edge_of(asked.job_id) == ""
    lease = await lease_on(queue)
    assert await claim_ids(queue, lease, 1) == [asked.job_id]
    await queue.commit(lease, [row(asked.job_id, 0, [1])])
    queue._submitting._recent = stored
    assert await queue._submitting.restore() == 0, "the job itself was there"
    assert await queue.edge_of(asked.job_id) == "e" * 5000
    assert await queue.num_queued() == 0, "and nothing else changed"
