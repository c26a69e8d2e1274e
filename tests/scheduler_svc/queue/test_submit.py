"""Jobs are accepted once, in order, up to a bound, with everything they said."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from redis import Redis

from scheduler_svc.queue import JobQueue, Order, QueueLimits, Submitted
from scheduler_svc.queue.keys import Keys, idempotency_digest
from stepserve.protocol.errors import Exhausted, InvalidRequest
from stepserve.protocol.sampling import Sampling
from tests.scheduler_svc.queue.build import FINGERPRINT, claim_ids, lease_on, spec, submit


async def test_a_claimed_job_is_what_was_submitted(queue: JobQueue) -> None:
    sampling = Sampling(
        max_tokens=7,
        temperature=0.1,
        seed=2**64 - 1,
        stop=("é\n", '"'),
        stop_token_ids=(2, 3),
        logit_bias=((5, -1.5), (6, 2.0)),
        logprobs=2,
        n=3,
    )
    asked = replace(
        spec(prompt=(0, 2**32 - 1), tenant="t", idempotency_key="k", priority=-3, deadline_s=60.0),
        sampling=sampling,
        tokenizer_fingerprint="tok",
        cancel_on_disconnect=True,
    )
    await queue.submit(asked)
    [job] = await queue.claim(await lease_on(queue), FINGERPRINT, 5)
    assert job.spec.deadline_s == pytest.approx(job.spec.arrival_s + 60.0, abs=1e-5)
    assert replace(job.spec, arrival_s=0.0, deadline_s=60.0) == asked
    assert [(log.index, log.token_ids, log.finish) for log in job.outputs] == [
        (0, (), None),
        (1, (), None),
        (2, (), None),
    ]


async def test_one_idempotency_key_is_one_job_however_many_submit_it(queue: JobQueue) -> None:
    answers = await asyncio.gather(
        *(queue.submit(spec(tenant="t", idempotency_key="key")) for _ in range(50))
    )
    assert len({answer.job_id for answer in answers}) == 1
    assert [answer.existed for answer in answers].count(False) == 1
    assert await queue.num_queued() == 1


async def test_a_key_belongs_to_one_request(queue: JobQueue, redis: Redis, keys: Keys) -> None:
    asked = {"tenant": "t", "idempotency_key": "key"}
    first = await queue.submit(spec(**asked), "one")
    assert (await queue.submit(spec(**asked), "one")).job_id == first.job_id
    with pytest.raises(InvalidRequest, match=first.job_id) as caught:
        await queue.submit(spec(**asked), "another")
    assert caught.value.field == "idempotency_key"
    assert await queue.num_queued() == 1
    # Versions that knew of no digest stored the id alone.
    redis.set(keys.idem(idempotency_digest("t", "key")), first.job_id)
    assert await queue.submit(spec(**asked), "another") == Submitted(first.job_id, existed=True)


async def test_a_key_is_known_once_its_job_is_there(queue: JobQueue) -> None:
    assert not await queue.is_known("t", "key")
    await queue.submit(spec(tenant="t", idempotency_key="key"))
    assert await queue.is_known("t", "key")
    assert not await queue.is_known("u", "key")
    assert not await queue.is_known("t", "")


async def test_idempotency_keys_are_each_tenants_own(queue: JobQueue) -> None:
    first = await queue.submit(spec(tenant="a", idempotency_key="bc"))
    second = await queue.submit(spec(tenant="ab", idempotency_key="c"))
    assert first.job_id != second.job_id
    assert not second.existed


async def test_a_submit_that_is_sent_again_changes_nothing(queue: JobQueue) -> None:
    asked = spec()
    for _ in range(2):
        assert (await queue.submit(asked)).existed is False
    assert await queue.num_queued() == 1


async def test_a_full_queue_refuses_and_keeps_nothing(redis_url: str, model: str) -> None:
    async with JobQueue(redis_url, model, QueueLimits(max_queued_jobs=2)) as queue:
        kept = await queue.submit(spec(idempotency_key="kept"))
        await submit(queue, 1)
        refused = spec(idempotency_key="refused")
        with pytest.raises(Exhausted) as error:
            await queue.submit(refused)
        assert error.value.retry_after_ms > 0
        assert await queue.job(refused.job_id) is None
        assert (await queue.submit(spec(idempotency_key="kept"))).job_id == kept.job_id
        await claim_ids(queue, await lease_on(queue), 1)
        assert (await queue.submit(refused)).existed is False


async def test_a_priority_moves_a_job_ahead(redis_url: str, model: str) -> None:
    async with JobQueue(redis_url, model, order=Order(policy="priority")) as queue:
        normal, urgent = await submit(queue, 1), await submit(queue, 1, priority=10)
        assert await claim_ids(queue, await lease_on(queue), 2) == urgent + normal


@pytest.mark.parametrize("bad", [spec(job_id=""), spec(job_id="a\0b"), spec(n=17), spec(n=0)])
async def test_a_job_that_cannot_be_stored_is_our_mistake(queue: JobQueue, bad: object) -> None:
    with pytest.raises(ValueError, match="1 to 16"):
        await queue.submit(bad)  # type: ignore[arg-type]
