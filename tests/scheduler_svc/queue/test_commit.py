"""A step's rows: every answer there is, and what each leaves in the logs."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from redis import Redis

from scheduler_svc.queue import Fenced, JobQueue, LogRequest
from scheduler_svc.queue.keys import Keys
from stepserve.protocol.job import Finish
from stepserve.protocol.prompt_logprobs import PromptLogprobs
from stepserve.protocol.step import TokenLogprobs
from tests.scheduler_svc.queue.build import (
    APPLIED,
    ENDED,
    EXISTED,
    STOP,
    UNKNOWN,
    claim_ids,
    lease_on,
    output,
    row,
    running,
    short,
    submit,
    tokens_of,
)


async def test_tokens_are_appended_in_row_order(queue: JobQueue) -> None:
    lease = await lease_on(queue)
    ids = await submit(queue, 3)
    await claim_ids(queue, lease, 3)
    rows = [row(ids[0], 0, [1]), row(ids[1], 0, [2, 3]), row(ids[2], 0, []), row(ids[0], 1, [4])]
    assert await queue.commit(lease, rows) == [APPLIED, APPLIED, EXISTED, APPLIED]
    assert [await tokens_of(queue, job_id) for job_id in ids] == [(1, 4), (2, 3), ()]
    assert await queue.commit(lease, []) == []


@pytest.mark.parametrize(
    ("offset", "tokens", "answer", "log"),
    [
        (3, [13, 14], APPLIED, (10, 11, 12, 13, 14)),
        (1, [11, 12, 13], APPLIED, (10, 11, 12, 13)),
        (1, [11, 12], EXISTED, (10, 11, 12)),
        (0, [10], EXISTED, (10, 11, 12)),
        (4, [14], short(3), (10, 11, 12)),
    ],
    ids=["new", "partly there", "all there", "within", "gap"],
)
async def test_each_offset_is_written_once(
    queue: JobQueue, offset: int, tokens: list[int], answer: object, log: tuple[int, ...]
) -> None:
    lease = await lease_on(queue)
    job_id = await running(queue, lease)
    await queue.commit(lease, [row(job_id, 0, [10, 11, 12])])
    assert await queue.commit(lease, [row(job_id, offset, tokens)]) == [answer]
    assert await tokens_of(queue, job_id) == log


async def test_an_end_waits_for_the_tokens_before_it(queue: JobQueue) -> None:
    lease = await lease_on(queue)
    job_id = await running(queue, lease)
    assert await queue.commit(lease, [row(job_id, 2, [12], STOP)]) == [short(0)]
    assert (await output(queue, job_id)).finish is None
    assert await queue.commit(lease, [row(job_id, 0, [10, 11, 12], STOP)]) == [APPLIED]
    assert (await output(queue, job_id)).finish == STOP


async def test_a_step_that_is_committed_again_existed(queue: JobQueue) -> None:
    lease = await lease_on(queue)
    going, ending = await submit(queue, 2)
    await claim_ids(queue, lease, 2)
    rows = [row(going, 0, [1]), row(ending, 0, [2], STOP)]
    assert await queue.commit(lease, rows) == [APPLIED, APPLIED]
    assert await queue.commit(lease, rows) == [EXISTED, EXISTED]
    assert await tokens_of(queue, going) == (1,)


async def test_nothing_is_added_after_the_end(queue: JobQueue) -> None:
    lease = await lease_on(queue)
    job_id = await running(queue, lease, n=2)
    await queue.commit(lease, [row(job_id, 0, [1], STOP)])
    rows = [row(job_id, 1, [2]), row(job_id, 1, (), Finish("length")), row(job_id, 0, (), STOP)]
    rows.append(row(job_id, 0, [9], index=1))
    assert await queue.commit(lease, rows) == [ENDED, ENDED, ENDED, APPLIED]
    assert await tokens_of(queue, job_id) == (1,)
    assert (await output(queue, job_id)).finish == STOP


async def test_a_job_ends_with_its_last_output(queue: JobQueue) -> None:
    lease = await lease_on(queue)
    job_id = await running(queue, lease, n=3)
    for index, reason in ((2, "length"), (0, "stop"), (1, "error")):
        snapshot = await queue.job(job_id)
        assert snapshot is not None
        assert (snapshot.state, snapshot.ended_s) == ("running", 0.0)
        rows = [row(job_id, 0, [index], Finish(reason, "why", 3), index=index)]
        assert await queue.commit(lease, rows) == [APPLIED]
    snapshot = await queue.job(job_id)
    assert snapshot is not None
    assert snapshot.state == "ended"
    assert snapshot.ended_s >= snapshot.spec.arrival_s > 0
    assert [o.finish for o in snapshot.outputs] == [
        Finish(reason, "why", 3) for reason in ("stop", "error", "length")
    ]
    await queue.release(lease)
    assert await queue.num_queued() == 0, "what has ended is not claimed any more"


async def test_log_probabilities_stay_beside_their_tokens(queue: JobQueue) -> None:
    lease = await lease_on(queue)
    job_id = await running(queue, lease, logprobs=2)
    entries = [TokenLogprobs(-0.5 * i, ((i, -0.5), (2**32 - 1, -8.0))[:i]) for i in range(4)]
    entries[0] = replace(entries[0], prompt=PromptLogprobs.of([-0.5, -2.0], [3, 4], [-0.5, -1.0]))
    await queue.commit(lease, [row(job_id, 0, [0, 1], logprobs=entries[:2])])
    rows = [row(job_id, 1, [1, 2, 3], STOP, logprobs=entries[1:])]
    assert await queue.commit(lease, rows) == [APPLIED]
    whole = await output(queue, job_id)
    assert whole.token_ids == (0, 1, 2, 3)
    assert list(whole.logprobs) == entries
    [tail, bare] = await queue.read([LogRequest(job_id, 0, 3, True), LogRequest(job_id, 0, 3)])
    assert tail is not None
    assert (tail.token_ids, tail.logprobs, tail.finish) == ((3,), (entries[3],), STOP)
    assert bare is not None
    assert bare.logprobs == ()
    with pytest.raises(ValueError, match="each of its tokens"):
        await queue.commit(lease, [row(job_id, 4, [1, 2], logprobs=entries[:1])])


async def test_a_log_that_lost_its_tail_is_refilled(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    lease = await lease_on(queue)
    job_id = await running(queue, lease)
    await queue.commit(lease, [row(job_id, 0, [1, 2, 3, 4])])
    redis.set(keys.log(job_id, 0), redis.getrange(keys.log(job_id, 0), 0, 7))
    assert await queue.commit(lease, [row(job_id, 4, [5])]) == [short(2)]
    assert await queue.commit(lease, [row(job_id, 2, [3, 4, 5])]) == [APPLIED]
    assert await tokens_of(queue, job_id) == (1, 2, 3, 4, 5)


async def test_rows_of_unknown_jobs_do_not_fail_the_step(queue: JobQueue) -> None:
    lease = await lease_on(queue)
    job_id = await running(queue, lease)
    rows = [row("nobody", 0, [1]), row(job_id, 0, [2]), row("nobody", 5, [1], STOP)]
    assert await queue.commit(lease, rows) == [UNKNOWN, APPLIED, UNKNOWN]
    assert await queue.read([LogRequest("nobody")]) == [None]
    assert await queue.job("nobody") is None


async def test_a_lost_lease_writes_nothing(queue: JobQueue) -> None:
    lease = await lease_on(queue)
    job_id = await running(queue, lease)
    await queue.commit(lease, [row(job_id, 0, [1])])
    again = await queue.acquire("worker", lease.holder, 60_000)
    assert again is not None
    assert again.epoch > lease.epoch
    with pytest.raises(Fenced):
        await queue.commit(lease, [row(job_id, 1, [2], STOP)])
    assert await claim_ids(queue, again, 1) == [job_id]
    with pytest.raises(Fenced):
        await queue.commit(lease, [row(job_id, 1, [2], STOP)])
    assert await tokens_of(queue, job_id) == (1,)
    assert (await output(queue, job_id)).finish is None


async def test_cancel_and_finish_at_once_have_one_winner(
    queue: JobQueue, redis_url: str, model: str
) -> None:
    lease = await lease_on(queue)
    winners = set()
    async with JobQueue(redis_url, model) as client:
        for _ in range(25):
            job_id = await running(queue, lease)
            cancelled, [answer] = await asyncio.gather(
                client.cancel(job_id), queue.commit(lease, [row(job_id, 0, [1], STOP)])
            )
            finish = (await output(queue, job_id)).finish
            assert finish is not None
            assert answer == (ENDED if cancelled else APPLIED)
            assert finish.reason == ("cancelled" if cancelled else "stop")
            assert await tokens_of(queue, job_id) == (() if cancelled else (1,))
            winners.add(finish.reason)
    assert winners


async def test_a_step_of_a_full_batch(queue: JobQueue) -> None:
    lease = await lease_on(queue)
    ids = await submit(queue, 256)
    assert await claim_ids(queue, lease, 256) == ids
    for offset in range(3):
        finish = STOP if offset == 2 else None
        rows = [row(job_id, offset, [i], finish) for i, job_id in enumerate(ids)]
        assert await queue.commit(lease, rows) == [APPLIED] * 256
    logs = await queue.read([LogRequest(job_id, 0, 1) for job_id in ids])
    assert [log.token_ids for log in logs if log] == [(i, i) for i in range(256)]
    assert len(await queue.jobs(state="ended", limit=999)) == 256
