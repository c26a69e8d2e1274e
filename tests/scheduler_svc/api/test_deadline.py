"""A deadline that can't be met is refused at once, with the reason."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from redis import Redis

from scheduler_svc.frontend import live_card
from scheduler_svc.queue import JobQueue
from scheduler_svc.queue.keys import Keys
from stepserve.protocol import inference_wire as wire
from stepserve.protocol.job import Finish
from tests.scheduler_svc.api.served import Served, message
from tests.scheduler_svc.api.test_service import refusal, submit


@pytest.fixture(autouse=True)
def _workers_are_looked_at_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_card, "MAX_AGE_S", -1.0)


async def measure(queue: JobQueue, worker: str, step_us: int) -> None:
    lease = await queue.acquire(worker, "test", 60_000)
    assert lease is not None
    assert (await queue.renew(lease, step_us)).is_ours


async def finish(served: Served, stub: Any, num_tokens: int, tenant: str = "") -> None:
    """Eight outputs of that length: so many make an estimate."""
    for _ in range(8):
        await submit(stub, tenant=tenant)
        job = await served.lane.claim()
        await served.lane.commit(job.spec.job_id, [5] * num_tokens, Finish("stop"))


async def measured(served: Served) -> None:
    """Two workers, the faster one with 20 ms for a step."""
    await measure(served.queue, "slow", 500_000)
    await measure(served.queue, "worker", 20_000)


async def test_a_deadline_that_cannot_be_met_is_refused(served: Served, stub: Any) -> None:
    await finish(served, stub, 60)
    await measured(served)
    sampling = {"max_tokens": 61}
    code, text = await refusal(submit(stub, sampling=sampling, deadline_s=0.5))
    assert code == grpc.StatusCode.FAILED_PRECONDITION
    assert text == "deadline_s: about 60 tokens need 1.2 s at least, 0.5 s are given"
    assert await served.queue.num_queued() == 0
    await submit(stub, sampling=sampling, deadline_s=1.25)
    await submit(stub, sampling={"max_tokens": 24}, deadline_s=0.5)
    await submit(stub, sampling=sampling)


async def test_a_stream_is_refused_alike(served: Served, stub: Any) -> None:
    await finish(served, stub, 5)
    await measure(served.queue, "worker", 500_000)
    asked = {"prompt": "Once", "sampling": {"max_tokens": 5}, "deadline_s": 2.0}
    code, text = await refusal(stub.Generate(message(asked)).read())
    assert (code, text[:10]) == (grpc.StatusCode.FAILED_PRECONDITION, "deadline_s")


async def test_it_goes_by_how_long_outputs_became(served: Served, stub: Any) -> None:
    await finish(served, stub, 10, tenant="brief")
    await measure(served.queue, "worker", 100_000)
    asked = {"sampling": {"max_tokens": 50}, "tenant": "brief"}
    await submit(stub, **asked, deadline_s=1.01)
    code, text = await refusal(submit(stub, **asked, deadline_s=0.9))
    assert (code, text) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "deadline_s: about 10 tokens need 1 s at least, 0.9 s are given",
    )


async def test_a_job_that_exists_is_not_refused(served: Served, stub: Any) -> None:
    await finish(served, stub, 60)
    asked = {"idempotency_key": "key", "sampling": {"max_tokens": 61}, "deadline_s": 0.5}
    first = await submit(stub, **asked)
    await measured(served)
    again = await submit(stub, **asked)
    assert (again.job_id, again.existed) == (first.job_id, True)
    code, _ = await refusal(submit(stub, **{**asked, "idempotency_key": "another"}))
    assert code == grpc.StatusCode.FAILED_PRECONDITION


async def test_nothing_is_refused_before_outputs_tell_how_long_they_become(
    served: Served, stub: Any
) -> None:
    await measured(served)
    await submit(stub, sampling={"max_tokens": 61}, deadline_s=0.001)


async def test_nothing_is_refused_while_the_pace_of_a_worker_is_not_known(
    served: Served, stub: Any
) -> None:
    await finish(served, stub, 60)
    asked = {"sampling": {"max_tokens": 61}, "deadline_s": 0.5}
    await measure(served.queue, "slow", 500_000)
    await submit(stub, **asked)
    await measured(served)
    assert (await refusal(submit(stub, **asked)))[0] == grpc.StatusCode.FAILED_PRECONDITION
    await measure(served.queue, "worker", 0)
    await submit(stub, **asked)


async def test_a_queue_that_is_too_long_is_a_reason_to_come_again(
    served: Served, stub: Any, redis_url: str
) -> None:
    await submit(stub)
    await submit(stub)
    with Redis.from_url(redis_url) as redis:
        redis.hset(Keys(served.card.name).pace, mapping={"jobs": 10, "s": 100})
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await submit(stub, deadline_s=15.0)
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (caught.value.details() or "").startswith("deadline_s: up to ")
    trailers = dict(caught.value.trailing_metadata() or ())
    assert int(trailers[wire.RETRY_AFTER_KEY]) > 1000
    await submit(stub, deadline_s=100.0)
