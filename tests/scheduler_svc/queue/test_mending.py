"""One look at Redis serves all that ask how it is, and whoever mends what it lost."""

from __future__ import annotations

from redis import Redis

from scheduler_svc.queue import JobQueue
from scheduler_svc.queue.keys import Keys
from tests.scheduler_svc.queue.build import submit


def num_looks(redis: Redis) -> int:
    """How often anybody has asked."""
    return int(redis.info("commandstats").get("cmdstat_info", {"calls": 0})["calls"])


async def test_a_sweep_s_look_tells_how_full_it_is_and_who_answers(
    queue: JobQueue, redis: Redis
) -> None:
    before = num_looks(redis)
    await queue.sweep()
    assert (await queue.memory(60.0)).used_bytes
    assert num_looks(redis) - before == 2, "of the queue, and this one"


async def test_what_a_look_for_the_memory_found_lost_is_stored_again(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    await queue.memory()
    [job_id] = await submit(queue, 1)
    queue._mending._continuity.note({"run_id": "of the server before"})
    redis.delete(keys.job(job_id))
    redis.zrem(keys.queue, job_id)
    redis.zrem(keys.jobs, job_id)
    await queue.memory()
    assert await queue.job(job_id) is None, "a probe does not wait for it"
    assert await queue.may_come_back()
    assert await queue.job(job_id) is not None
