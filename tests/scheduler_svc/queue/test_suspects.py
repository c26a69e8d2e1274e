"""Jobs that were there when workers crashed: who is blamed, who is claimed, who ends."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path

import pytest
from redis import Redis

from scheduler_svc.queue import Accused, EmbeddedRedis, Fenced, JobQueue, Lease
from scheduler_svc.queue.keys import Keys
from scheduler_svc.queue.suspicion import Verdicts
from scheduler_svc.suspects import ALONE, GUILTY, MAX_LOSSES, next_trial, struck
from stepserve.protocol.job import Finish
from tests.scheduler_svc.queue.build import (
    FINGERPRINT,
    claim_ids,
    lease_on,
    row,
    running,
    submit,
)

BROKEN = "Boom: it broke"


async def suspect_ids(queue: JobQueue, lease: Lease, count: int = 100) -> list[str]:
    answer = await queue.claim_suspects(lease, FINGERPRINT, count)
    return sorted(job.spec.job_id for job in answer.jobs)


async def failed(queue: JobQueue, lease: Lease, job_ids: Iterable[str] | None = None) -> Lease:
    """The worker of the lease crashes with what it holds, and is taken anew."""
    accused = await queue.claimed(lease) if job_ids is None else job_ids
    await queue.strike(lease, [Accused(job_id) for job_id in accused], BROKEN)
    return await lease_on(queue, lease.worker_id)


async def lost(queue: JobQueue, lease: Lease, job_id: str, num_tokens: int) -> int:
    """The worker of the lease is lost in a step of the job's; how many are suspects by that."""
    accused = [Accused(job_id, num_tokens, num_more=5)]
    return await queue.strike(lease, accused, "gone", has_crashed=False)


async def finish_of(queue: JobQueue, job_id: str) -> Finish | None:
    job = await queue.job(job_id)
    assert job is not None
    return job.outputs[0].finish


def strikes(redis: Redis, keys: Keys) -> dict[str, int]:
    scores = redis.zrange(keys.suspects, 0, -1, withscores=True)
    return {job_id.decode(): int(count) for job_id, count in scores}


async def test_suspects_are_passed_over_and_tried_by_halves(queue: JobQueue) -> None:
    lease = await lease_on(queue)
    ids = await submit(queue, 5)
    assert await claim_ids(queue, lease, 4) == ids[:4]
    lease = await failed(queue, lease)
    other = await lease_on(queue, "other")
    assert await claim_ids(queue, other, 9) == ids[4:], "a suspect is claimed like any other"
    assert await suspect_ids(queue, lease) == ids[:2]
    assert await suspect_ids(queue, lease) == [], "others join those that are tried"
    lease = await failed(queue, lease)
    assert await suspect_ids(queue, lease) == ids[:1], "half of those that were there twice"


async def test_they_are_tried_at_one_worker_that_holds_nothing(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    lease, busy, idle = [await lease_on(queue, name) for name in ("worker", "busy", "idle")]
    ids = await submit(queue, 5)
    assert await claim_ids(queue, lease, 4) == ids[:4]
    await claim_ids(queue, busy, 1)
    lease = await failed(queue, lease)
    assert await suspect_ids(queue, busy) == []
    assert await suspect_ids(queue, lease) == ids[:2]
    assert await suspect_ids(queue, idle) == [], "it would be a second one"
    await queue.absolve(ids[:2])
    assert await suspect_ids(queue, idle) == []
    await queue.retire(idle)
    assert redis.get(keys.canary) == b"worker", "it is not theirs to end"
    await queue.retire(lease)
    assert await suspect_ids(queue, idle) == ids[2:3]


@pytest.mark.parametrize(("end", "left"), [("released", 2), ("expired", 1), ("crashed", 1)])
async def test_where_that_worker_is_gone_it_is_another(
    queue: JobQueue, redis: Redis, keys: Keys, end: str, left: int
) -> None:
    lease, other = [await lease_on(queue, name) for name in ("worker", "other")]
    ids = await submit(queue, 4)
    await claim_ids(queue, lease, 4)
    lease = await failed(queue, lease)
    assert await suspect_ids(queue, lease) == ids[:2]
    if end == "released":
        await queue.release(lease)
    elif end == "crashed":
        await failed(queue, lease)
    else:
        redis.zadd(keys.workers, {"worker": 1.0})
    # What it was trying waits again, and was not tried out; or it is not known to be gone.
    assert len(await suspect_ids(queue, other)) == left


async def test_a_holder_that_goes_on_with_suspects_is_where_they_are_tried(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    lease = await lease_on(queue)
    await submit(queue, 4)
    await claim_ids(queue, lease, 4)
    lease = await failed(queue, lease)
    tried = await suspect_ids(queue, lease)
    redis.delete(keys.canary)
    inherited = await queue.inherit(lease, FINGERPRINT)
    assert sorted(job.spec.job_id for job in inherited) == tried
    assert [job.strikes for job in inherited] == [1, 1]
    assert redis.get(keys.canary) == b"worker"


async def test_a_worker_is_wanted_where_all_hold_something(queue: JobQueue) -> None:
    lease, more, less = [await lease_on(queue, name) for name in ("worker", "more", "less")]
    await submit(queue, 5)
    await claim_ids(queue, lease, 2)
    await claim_ids(queue, more, 2)
    await claim_ids(queue, less, 1)
    job_ids = await queue.claimed(lease)
    await queue.strike(lease, [Accused(job_id) for job_id in job_ids], BROKEN)

    async def wanted() -> list[bool]:
        claims = [await queue.claim_suspects(of, FINGERPRINT, 1) for of in (more, less)]
        return [claim.is_lane_wanted for claim in claims]

    assert await wanted() == [False, False], "the worker may come back at once"
    await queue.requeue(lease, sorted(job_ids))
    assert await wanted() == [False, False], "it holds nothing"
    await queue.release(lease)
    assert await wanted() == [False, True], "the one that holds least is to make way"


async def test_one_that_our_worker_can_not_run_keeps_nobody_from_being_tried(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    lease = await lease_on(queue)
    ids = await submit(queue, 4)
    await claim_ids(queue, lease, 4)
    lease = await failed(queue, lease)
    for job_id in ids[:2]:
        redis.hset(keys.job(job_id), "fingerprint", "of another model")
    assert await suspect_ids(queue, lease) == ids[2:3]


async def test_who_is_alone_in_two_crashes_ends_at_once(queue: JobQueue) -> None:
    lease = await lease_on(queue)
    job_id = await running(queue, lease)
    lease = await failed(queue, lease)
    await queue.sweep()
    assert await suspect_ids(queue, lease) == [job_id]
    lease = await failed(queue, lease)
    assert await finish_of(queue, job_id) == Finish("error", f"it can't be run: {BROKEN}")
    assert queue.verdicts == Verdicts(num_crashes=2, num_accused=2, num_convicted=1)
    assert await queue.num_queued() == 0
    assert not await queue.has_suspects()


async def test_the_guilty_whose_end_was_lost_are_ended_by_the_sweep(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    lease = await lease_on(queue)
    job_id = await running(queue, lease)
    lease = await failed(queue, lease)
    redis.hset(keys.job(job_id), "strikes", GUILTY)
    redis.zadd(keys.suspects, {job_id: GUILTY})
    assert await suspect_ids(queue, lease) == []
    await queue.sweep()
    assert await finish_of(queue, job_id) == Finish("error", f"it can't be run: {BROKEN}")
    assert redis.zcard(keys.suspects) == 0


async def test_the_absolved_are_like_any_other(queue: JobQueue) -> None:
    lease = await lease_on(queue)
    job_id = await running(queue, lease)
    lease = await failed(queue, lease)
    await queue.absolve([job_id])
    assert await suspect_ids(queue, lease) == []
    assert await claim_ids(queue, lease, 1) == [job_id]
    lease = await failed(queue, lease)
    assert await suspect_ids(queue, lease) == [job_id], "one strike, not two"


async def test_a_lane_that_was_fenced_off_blames_nobody(queue: JobQueue) -> None:
    lease = await lease_on(queue)
    job_id = await running(queue, lease)
    newer = await lease_on(queue)
    with pytest.raises(Fenced):
        await queue.strike(lease, [Accused(job_id)], "late")
    assert await claim_ids(queue, newer, 1) == [job_id]


async def test_who_was_not_in_the_step_is_not_blamed(queue: JobQueue) -> None:
    lease = await lease_on(queue)
    ids = await submit(queue, 3)
    await claim_ids(queue, lease, 3)
    lease = await failed(queue, lease, ids[:1])
    assert await claim_ids(queue, lease, 3) == ids[1:]


async def test_who_is_lost_with_a_worker_again_and_again_is_a_suspect(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    lease = await lease_on(queue)
    job_id, _ = await running(queue, lease), await running(queue, lease)
    for num_tokens in (0, 4):
        assert await lost(queue, lease, job_id, num_tokens) == 0
    assert await lost(queue, lease, job_id, 5) == 0, "it got further: that was another place"
    assert [await lost(queue, lease, job_id, 6) for _ in range(MAX_LOSSES - 1)] == [0, 1]
    assert strikes(redis, keys) == {job_id: 1}
    assert await lost(queue, lease, job_id, 6) == 1, "each counts from then on"
    assert strikes(redis, keys) == {job_id: 2}
    await queue.absolve([job_id])
    assert await lost(queue, lease, job_id, 6) == 0


def as_replica_had_it(queue: JobQueue, redis: Redis, keys: Keys, job_id: str) -> None:
    """Before it was struck; and it is found out that this one answers now."""
    redis.hdel(keys.job(job_id), "strikes", "problem")
    redis.zrem(keys.suspects, job_id)
    queue._mending._continuity.note({"run_id": "of the server before"})


async def test_strikes_that_a_failover_took_are_struck_again(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    lease = await lease_on(queue)
    job_id, other, cleared = [await running(queue, lease) for _ in range(3)]
    lease = await failed(queue, lease)
    await queue.absolve([cleared])
    for each in (job_id, cleared):
        as_replica_had_it(queue, redis, keys, each)
    redis.hset(keys.job(other), "strikes", 3)
    await queue._mending.look()
    assert strikes(redis, keys) == {job_id: 1, other: 1}
    assert redis.hmget(keys.job(job_id), "strikes", "problem") == [b"1", BROKEN.encode()]
    assert redis.hget(keys.job(other), "strikes") == b"3", "they never become fewer"


async def test_who_was_cleared_elsewhere_is_struck_again_only_for_what_came_later(
    queue: JobQueue, redis: Redis, redis_url: str, model: str, keys: Keys
) -> None:
    lease = await lease_on(queue)
    job_id = await running(queue, lease)
    lease = await failed(queue, lease)
    async with JobQueue(redis_url, model) as other:
        await other.absolve([job_id, "gone"])
    assert not redis.exists(keys.job("gone"))
    as_replica_had_it(queue, redis, keys, job_id)
    await queue._mending.look()
    assert strikes(redis, keys) == {}
    assert await claim_ids(queue, lease, 1) == [job_id]
    await failed(queue, lease)
    as_replica_had_it(queue, redis, keys, job_id)
    await queue._mending.look()
    assert strikes(redis, keys) == {job_id: ALONE}


async def test_one_that_can_not_be_struck_again_keeps_no_other_from_it(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    lease = await lease_on(queue)
    broken, job_id = [await running(queue, lease) for _ in range(2)]
    await failed(queue, lease)
    for each in (broken, job_id):
        as_replica_had_it(queue, redis, keys, each)
    redis.delete(keys.job(broken))
    redis.rpush(keys.job(broken), "of another kind")
    await queue._mending.look()
    assert strikes(redis, keys) == {job_id: 1}


async def test_a_job_that_is_stored_again_after_a_crash_is_as_suspect_as_it_was(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    """Its record came with its claim, before the crash."""
    lease = await lease_on(queue)
    job_id = await running(queue, lease)
    [job] = await queue.inherit(lease, FINGERPRINT)
    await queue.strike(lease, [Accused(job_id)], BROKEN)
    queue._submitting.forgotten(job_id)  # another process has stored it
    redis.delete(keys.job(job_id))
    redis.zrem(keys.jobs, job_id)
    as_replica_had_it(queue, redis, keys, job_id)
    assert await queue.restore(job.spec, has_output=False)
    assert strikes(redis, keys) == {job_id: ALONE}


async def test_suspects_that_have_ended_are_forgotten(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    lease = await lease_on(queue)
    job_id = await running(queue, lease)
    lease = await failed(queue, lease)
    await queue.cancel(job_id)
    assert await suspect_ids(queue, lease) == []
    await queue.sweep()
    assert redis.zcard(keys.suspects) == 0


async def test_the_script_strikes_as_the_rule_does(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    lease = await lease_on(queue)
    ids = await submit(queue, 2)
    await claim_ids(queue, lease, 2)
    for before, count in itertools.product((0, 1, ALONE - 2, ALONE - 1, ALONE), (2, 1)):
        if count == 1:
            await queue.requeue(lease, ids[1:])
        else:
            await claim_ids(queue, lease, 1)
        redis.hset(keys.job(ids[0]), "strikes", before)
        answer = await redis_strike(queue, lease, ids[0])
        assert answer == 1
        after = struck(before, is_alone=count == 1)
        assert strikes(redis, keys) == {ids[0]: after}
        if after == GUILTY:
            break
    assert next_trial(strikes(redis, keys)) == []


async def redis_strike(queue: JobQueue, lease: Lease, job_id: str) -> int:
    return await queue.strike(lease, [Accused(job_id)], BROKEN)


@pytest.mark.parametrize("field", ["spec", "prompt", "arrival", "share", "deadline"])
async def test_a_record_that_is_broken_ends_its_own_job(
    queue: JobQueue, redis: Redis, keys: Keys, field: str
) -> None:
    lease = await lease_on(queue)
    broken, sound = await submit(queue, 2)
    redis.hset(keys.job(broken), field, "?")
    assert await claim_ids(queue, lease, 2) == [sound]
    finish = redis.hget(keys.job(broken), "f0")
    assert finish is not None
    assert b'"error"' in finish


async def test_a_suspect_whose_record_is_broken_keeps_nobody_from_being_tried(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    lease, other = await lease_on(queue), await lease_on(queue, "other")
    job_id = await running(queue, lease)
    lease = await failed(queue, lease)
    redis.hset(keys.job(job_id), "spec", "?")
    assert await suspect_ids(queue, lease) == []
    second = await running(queue, other)
    await failed(queue, other)
    assert redis.get(keys.canary) is None
    assert await suspect_ids(queue, lease) == [second]


async def test_logs_of_a_wrong_kind_end_their_own_job(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    lease = await lease_on(queue)
    ids = [await running(queue, lease) for _ in range(2)]
    await queue.commit(lease, [row(job_id, 0, [1]) for job_id in ids])
    await queue.requeue(lease, ids)
    redis.delete(keys.log(ids[0], 0))
    redis.rpush(keys.log(ids[0], 0), "not a string")
    assert await claim_ids(queue, lease, 2) == [ids[1]]


async def test_a_full_redis_remembers_who_is_blamed(tmp_path: Path) -> None:
    with EmbeddedRedis.start(tmp_path) as server, Redis.from_url(server.url) as client:
        async with JobQueue(server.url, "model") as queue:
            lease = await lease_on(queue)
            job_id = await running(queue, lease)
            client.config_set("maxmemory", 1)
            for _ in range(2):
                assert await queue.strike(lease, [Accused(job_id)], "Boom") == 1
            assert await finish_of(queue, job_id) == Finish("error", "it can't be run: Boom")
