"""Jobs that no worker can run: they say so, wait for one, and end or begin anew in time."""

from __future__ import annotations

import struct

import pytest
from redis import Redis

from scheduler_svc.queue import JobQueue, JobSnapshot, Lease, Order, QueueLimits, Quota
from scheduler_svc.queue.keys import Keys
from stepserve.protocol.choices import OnModelChange
from tests.scheduler_svc.queue.build import APPLIED, STOP, claim_ids, row, spec, submit, tokens_of

MODEL_NOTE = "its output is from a model that no worker has now (fingerprint old)"
ROOM_NOTE = "it needs room for 103 tokens, the workers' limit is 50"


async def worker(
    queue: JobQueue, fingerprint: str = "new", max_context: int = 50, name: str = "worker"
) -> Lease:
    info = {"fingerprint": fingerprint, "max_context": str(max_context)}
    lease = await queue.acquire(name, f"holder of {name}", 60_000, info)
    assert lease is not None
    return lease


async def of_another_model(queue: JobQueue) -> str:
    """A queued job with output of the model "old", which no worker has any more."""
    lease = await worker(queue, "old")
    [job_id] = await submit(queue, 1, max_tokens=20)
    await claim_ids(queue, lease, 1, "old")
    await queue.commit(lease, [row(job_id, 0, [7, 8])], {(job_id, 0): 3})
    await queue.release(lease)
    return job_id


async def job(queue: JobQueue, job_id: str) -> JobSnapshot:
    snapshot = await queue.job(job_id)
    assert snapshot is not None
    return snapshot


async def passed_over(queue: JobQueue, max_context: int = 50) -> Lease:
    """A lane of a new worker looks at the queue, and claims nobody."""
    lease = await worker(queue, max_context=max_context)
    assert await queue.claim(lease, "new", 4, max_context=max_context) == []
    return lease


def limits(action: OnModelChange, grace_s: float = 0.0) -> QueueLimits:
    return QueueLimits(on_model_change=action, stranded_grace_s=grace_s)


async def test_it_says_at_once_what_it_waits_for(queue: JobQueue) -> None:
    job_id = await of_another_model(queue)
    assert (await job(queue, job_id)).note == "", "no worker is there at all"
    await passed_over(queue)
    assert (await job(queue, job_id)).note == MODEL_NOTE
    assert [each.note for each in await queue.jobs()] == [MODEL_NOTE]


@pytest.mark.parametrize("action", ["wait", "end", "restart"])
async def test_output_of_a_model_that_is_gone(
    redis_url: str, model: str, caplog: pytest.LogCaptureFixture, action: OnModelChange
) -> None:
    async with JobQueue(redis_url, model, limits(action)) as queue:
        job_id = await of_another_model(queue)
        lease = await passed_over(queue)
        for _ in range(2):
            await queue.sweep()
        assert caplog.text.count(MODEL_NOTE) == 1, "it is said once"
        found = await job(queue, job_id)
        finish = found.outputs[0].finish
        if action == "end":
            assert finish is not None
            assert (finish.reason, finish.message) == ("error", MODEL_NOTE)
        else:
            assert found.state == "queued"
            assert await claim_ids(queue, lease, 4, "new") == [job_id] * (action == "restart")
        assert await tokens_of(queue, job_id) == (() if action == "restart" else (7, 8))


async def test_what_begins_anew_is_committed_like_any_other(redis_url: str, model: str) -> None:
    async with JobQueue(redis_url, model, limits("restart")) as queue:
        job_id = await of_another_model(queue)
        lease = await passed_over(queue)
        await queue.sweep()
        [claimed] = await queue.claim(lease, "new", 1)
        assert claimed.outputs[0].token_ids == ()
        await queue.commit(lease, [row(job_id, 0, [5])], {(job_id, 0): 16})
        assert await tokens_of(queue, job_id) == (5,)
        assert (await job(queue, job_id)).num_cached == 16, "no other model's cache counts"


async def test_the_grace_is_kept_while_others_are_there(redis_url: str, model: str) -> None:
    async with JobQueue(redis_url, model, limits("end", 60.0)) as queue:
        job_id = await of_another_model(queue)
        await passed_over(queue)
        await queue.sweep()
        assert (await job(queue, job_id)).state == "queued"
        lease = await worker(queue, "old", name="another")
        assert await claim_ids(queue, lease, 1, "old") == [job_id]


async def test_a_clock_that_went_back_ends_nobody_early_or_late(
    redis_url: str, model: str, redis: Redis, keys: Keys
) -> None:
    async with JobQueue(redis_url, model, limits("end", 60.0)) as queue:
        job_id = await of_another_model(queue)
        await passed_over(queue)
        for shift_s, state in ((+3600, "queued"), (-3600, "ended")):
            now_s = await queue.now_s()
            redis.zadd(keys.stranded, {job_id: now_s + shift_s})
            await queue.sweep()
            assert (await job(queue, job_id)).state == state
            assert redis.zscore(keys.stranded, job_id) <= now_s + 1


async def test_too_much_for_a_worker_is_left_to_a_larger_one(redis_url: str, model: str) -> None:
    async with JobQueue(redis_url, model, limits("end")) as queue:
        [job_id] = await submit(queue, 1, max_tokens=100)
        await passed_over(queue)
        large = await worker(queue, max_context=103, name="large")
        await queue.sweep()
        found = await job(queue, job_id)
        assert (found.state, found.note) == ("queued", "")
        claimed = await queue.claim(large, "new", 1, max_context=103)
        assert [each.spec.job_id for each in claimed] == [job_id]


@pytest.mark.parametrize("action", ["wait", "end", "restart"])
async def test_too_much_for_every_worker_ends_with_their_limit(
    redis_url: str, model: str, action: OnModelChange
) -> None:
    async with JobQueue(redis_url, model, limits(action)) as queue:
        [job_id] = await submit(queue, 1, max_tokens=100)
        await passed_over(queue)
        assert (await job(queue, job_id)).note == ROOM_NOTE
        await queue.sweep()
        finish = (await job(queue, job_id)).outputs[0].finish
        assert finish is not None
        assert (finish.reason, finish.message) == ("error", ROOM_NOTE)


async def test_who_named_no_length_takes_what_there_is(queue: JobQueue) -> None:
    ids = await submit(queue, 1, max_tokens=100, is_open_ended=True)
    lease = await worker(queue)
    claimed = await queue.claim(lease, "new", 1, max_context=50)
    assert [each.spec.job_id for each in claimed] == ids


@pytest.mark.parametrize(("field", "value"), [("need", "?"), ("fingerprint", b"\xff")])
async def test_a_record_that_is_broken_is_nobody_elses_trouble(
    redis_url: str, model: str, redis: Redis, keys: Keys, field: str, value: str | bytes
) -> None:
    async with JobQueue(redis_url, model, limits("end")) as queue:
        broken = await of_another_model(queue)
        [other] = await submit(queue, 1, max_tokens=100)
        redis.hset(keys.job(broken), field, value)
        await passed_over(queue)
        assert {each.spec.job_id for each in await queue.jobs()} == {broken, other}
        await queue.sweep()
        assert [each.state for each in await queue.jobs()] == ["ended", "ended"]


async def test_what_begins_anew_is_paid_for_once(
    redis_url: str, model: str, redis: Redis, keys: Keys
) -> None:
    """Of an output that had ended, what it did not use was given back already."""
    quota, fair = Quota("key", tokens_per_minute=1000, max_jobs=2), Order(policy="fair")
    async with JobQueue(redis_url, model, limits("restart"), fair) as queue:
        await queue.adopt_order()
        lease = await worker(queue, "old")
        asked = spec(n=2, max_tokens=20, tenant="tenant")
        await queue.submit(asked, quota=quota)
        await claim_ids(queue, lease, 1, "old")
        rows = [row(asked.job_id, 0, [7, 8], STOP), row(asked.job_id, 0, [9], index=1)]
        await queue.commit(lease, rows)
        await queue.release(lease)
        lease = await passed_over(queue)
        await queue.sweep()
        assert await claim_ids(queue, lease, 1, "new") == [asked.job_id]
        ends = [row(asked.job_id, 0, [1, 2, 3], STOP, index=index) for index in (0, 1)]
        assert await queue.commit(lease, ends) == [APPLIED, APPLIED]
    _, tokens, _, jobs = struct.unpack("<dddd", redis.hget(keys.quotas, "key"))
    assert (tokens, jobs) == (1000 - 3 - 2 * 3, 0)
    # A token of an output counts as two of a prompt, which each output has.
    assert float(redis.hget(keys.counters, "tenant")) == 2 * (3 + 2 * 3)
