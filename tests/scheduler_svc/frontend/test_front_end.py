"""The front end as an edge sees it: values in, values out, and no protocol between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from redis import Redis

from scheduler_svc.access.api_key import new_key
from scheduler_svc.access.caller import Caller
from scheduler_svc.frontend import redis_watch
from scheduler_svc.frontend.front_end import FrontEnd, Readiness
from scheduler_svc.frontend.front_ends import FrontEnds
from scheduler_svc.frontend.listing import Listing
from scheduler_svc.frontend.own_jobs import OwnJobs
from scheduler_svc.queue import JobQueue
from scheduler_svc.queue.keys import Keys
from scheduler_svc.settings import ApiSettings
from scheduler_svc.text.model_card import ModelCard
from stepserve.protocol.errors import Forbidden, InvalidRequest, NotFound, Unavailable
from stepserve.protocol.inference import Request, StreamEvent, Usage
from stepserve.protocol.job import Finish, JobSpec
from stepserve.protocol.request_digest import request_digest
from stepserve.protocol.sampling import Sampling, SamplingParams
from tests.scheduler_svc.api.served import WAIT_S, Lane, front_ends_of

PROMPT = (1, 2, 3)
TWO = SamplingParams(max_tokens=4, n=2)


@dataclass
class Running:
    """A front end that runs, a lane's part to be played, and how it said that it stands."""

    front_end: FrontEnds
    lane: Lane
    told: asyncio.Queue[Readiness] = field(default_factory=asyncio.Queue)

    async def until(self, readiness: Readiness) -> None:
        async with asyncio.timeout(WAIT_S):
            while await self.told.get() != readiness:
                pass


@pytest.fixture
async def running(redis_url: str, card: ModelCard) -> AsyncIterator[Running]:
    settings = ApiSettings(stream_window_ms=0, disconnect_grace_s=0.0)
    async with JobQueue(redis_url, card.name) as queue:
        await queue.adopt_order()
        lease = await queue.acquire("worker", "test", ttl_ms=60_000)
        assert lease is not None
        running = Running(front_ends_of(queue, card, settings), Lane(queue, lease))
        task = asyncio.create_task(running.front_end.run(running.told.put))
        yield running
        await running.front_end.close()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def request(sampling: SamplingParams = TWO, *, cancel_on_disconnect: bool = False) -> Request:
    return Request(
        prompt_token_ids=PROMPT,
        sampling=sampling,
        idempotency_key="k",
        cancel_on_disconnect=cancel_on_disconnect,
    )


async def test_a_repeat_has_its_job_whatever_its_key_may_have_by_now(running: Running) -> None:
    """What was asked tells requests apart, not what became of it."""

    def by_key(max_priority: int) -> OwnJobs:
        _, key = new_key("a", max_priority=max_priority)
        return OwnJobs(running.front_end, Caller("a", key))

    for asked in (0, 5):
        repeat = replace(request(), priority=asked, idempotency_key=f"asked {asked}")
        stored = await by_key(10).submit(repeat)
        assert not stored.existed
        again = await by_key(-2).submit(repeat)
        assert (again.existed, again.job_id) == (True, stored.job_id)
        with pytest.raises(InvalidRequest, match="another request"):
            await by_key(10).submit(replace(repeat, priority=asked - 5))
    with pytest.raises(Forbidden):
        await by_key(-2).submit(replace(request(), priority=5))
    low = await by_key(-2).submit(replace(request(), idempotency_key="low"))
    assert low.spec is not None
    assert low.spec.priority == -2


@pytest.mark.parametrize("bounds", [{"max_jobs": 2}, {"requests_per_minute": 2, "max_jobs": 9}])
async def test_more_at_once_than_a_key_may_ever_have_is_refused_before_any(
    running: Running, bounds: dict[str, int]
) -> None:
    bounded = OwnJobs(running.front_end, Caller("a", new_key("a", **bounds)[1]))
    asked = [replace(request(), idempotency_key=f"k{i}") for i in range(9)]
    await bounded.check_all("prompt", asked[:2])
    with pytest.raises(InvalidRequest, match="asks for 3 jobs, 2 at once"):
        await bounded.check_all("prompt", asked[:3])
    await OwnJobs(running.front_end, Caller()).check_all("prompt", asked)
    # Those that were accepted before its key had such bounds are there.
    unbounded = OwnJobs(running.front_end, Caller("a", new_key("a")[1]))
    for each in asked[:7]:
        await unbounded.submit(each)
    await bounded.check_all("prompt", asked)
    with pytest.raises(InvalidRequest, match="asks for 3 jobs"):
        await bounded.check_all("prompt", [*asked, replace(request(), idempotency_key="k9")])


async def test_a_repeat_of_what_a_version_before_took_is_no_other_request(running: Running) -> None:
    """Its digests had the priority that the key allowed."""
    _, key = new_key("a", max_priority=-2)
    low = OwnJobs(running.front_end, Caller("a", key))
    asked, queue = replace(request(), tenant="a"), running.front_end.of("").queue
    as_before = request_digest(replace(asked, priority=-2), running.front_end.of("").model)
    stored = JobSpec(
        "stored", "model", PROMPT, Sampling(max_tokens=4, n=2), tenant="a", idempotency_key="k"
    )
    await queue.submit(stored, as_before)
    again = await low.submit(request())
    assert (again.existed, again.job_id) == (True, "stored")
    with pytest.raises(InvalidRequest, match="another request"):
        await low.submit(request(SamplingParams(n=3)))


async def test_a_check_says_what_a_submit_would_and_stores_nothing(running: Running) -> None:
    front_end = running.front_end
    await front_end.check(request())
    wrong = request(SamplingParams(temperature=-1.0))
    with pytest.raises(InvalidRequest, match="temperature"):
        await front_end.check(wrong)
    assert not (await front_end.page(Listing())).jobs


async def test_a_job_is_stored_once_and_streamed_from_any_offset(running: Running) -> None:
    front_end, lane = running.front_end, running.lane
    stored = await front_end.submit(request())
    again = await front_end.submit(request())
    assert (stored.existed, again.existed, again.job_id) == (False, True, stored.job_id)
    with pytest.raises(InvalidRequest, match=f"another request, which is job {stored.job_id}"):
        await front_end.submit(request(SamplingParams(n=3)))
    await lane.claim()
    await lane.commit(stored.job_id, [7, 8], Finish("length"), index=0)
    await lane.commit(stored.job_id, [9], Finish("length"), index=1)
    events = [event async for event in front_end.events(stored.job_id, offsets=[1, 0])]
    told = [(event.index, event.offset, list(event.token_ids)) for event in events]
    assert sorted(told) == [(0, 1, [8]), (1, 0, [9])]
    assert [event.usage for event in events] == [None, Usage(len(PROMPT), 3)]
    job = await front_end.get(stored.job_id)
    assert (job.state, (await front_end.page(Listing("ended"))).jobs) == ("ended", (job,))
    assert (await front_end.page(Listing("queued"))).jobs == ()


async def test_a_refused_request_names_its_field_and_leaves_nothing(running: Running) -> None:
    front_end = running.front_end
    for wrong, name in (
        (Request("a", model="other"), "model 'other'"),
        (Request(), "prompt: "),
        (Request("a", sampling=SamplingParams(logprobs=21)), "sampling.logprobs: must be from 0"),
        (Request(prompt_token_ids=[-1]), "prompt_token_ids[0]: must be from 0"),
    ):
        with pytest.raises((InvalidRequest, NotFound)) as caught:
            await front_end.submit(wrong)
        assert str(caught.value).startswith(name)
    stream = front_end.generate(Request("a", priority=11))
    with pytest.raises(InvalidRequest, match=r"^priority: must be from -10 to 10"):
        await anext(stream)
    assert (await front_end.page(Listing())).jobs == ()


async def test_what_was_accepted_has_its_job_and_what_fits_no_field_has_none(
    redis_url: str, card: ModelCard
) -> None:
    asked = request(SamplingParams(max_tokens=4, temperature=1.0))
    async with JobQueue(redis_url, card.name) as queue:
        await queue.adopt_order()
        stored = await FrontEnd(queue, card, ApiSettings()).submit(asked)
        smaller = FrontEnd(queue, replace(card, max_context=len(PROMPT)), ApiSettings())
        again = await smaller.submit(asked)
        assert (again.existed, again.job_id) == (True, stored.job_id)
        with pytest.raises(InvalidRequest, match=r"^prompt_token_ids: 3 tokens leave no room"):
            await smaller.submit(replace(asked, priority=1))
        # A message would hold it as the 1.0 that was accepted.
        unfit = SamplingParams(max_tokens=4, temperature=True)
        with pytest.raises(InvalidRequest, match=r"^sampling.temperature: must be a number"):
            await smaller.submit(replace(asked, sampling=unfit))


class Untouchable(Sequence[Any]):
    """A list that nobody looks at."""

    def __len__(self) -> int:
        raise AssertionError("it was looked at")

    def __getitem__(self, index: Any) -> Any:
        raise AssertionError("it was looked at")


async def test_a_refusal_while_redis_is_away_does_not_look_at_the_request(card: ModelCard) -> None:
    large = Request(prompt_token_ids=Untouchable(), messages=Untouchable(), idempotency_key="k")
    async with JobQueue("redis://127.0.0.1:1/0", card.name) as queue:
        front_end = FrontEnd(queue, card, ApiSettings())
        told: asyncio.Queue[Readiness] = asyncio.Queue()
        task = asyncio.create_task(front_end.run(told.put))
        assert await told.get() == Readiness(takes_jobs=False, computes=False)
        with pytest.raises(Unavailable):
            await front_end.submit(large)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await front_end.close()


async def test_what_is_not_there_cannot_be_followed(running: Running) -> None:
    front_end = running.front_end
    for job_id in ("", "nobody", "x" * 300, "a\0b"):
        with pytest.raises(NotFound):
            await anext(front_end.events(job_id))
        with pytest.raises(NotFound):
            await front_end.cancel(job_id)
    stored = await front_end.submit(request())
    for offset, offsets, problem in (
        (5, (), "offset: 5 is beyond the 4 tokens"),
        (0, (0,), "offsets: the job has 2 outputs, not 1"),
        (1, (0, 0), "offsets: only one of offset and offsets"),
    ):
        with pytest.raises(InvalidRequest, match=f"^{problem}"):
            await anext(front_end.events(stored.job_id, offset, offsets))


async def test_a_stream_that_is_left_cancels_the_job_that_said_so(running: Running) -> None:
    front_end = running.front_end
    async with aclosing(front_end.generate(request(cancel_on_disconnect=True))) as events:
        first = await anext(events)
    assert first == StreamEvent(first.job_id)
    async with asyncio.timeout(WAIT_S):
        last = [event async for event in front_end.events(first.job_id)]
    assert {event.finish_reason for event in last} == {"cancelled"}
    assert (await front_end.cancel(first.job_id)).state == "ended"


async def test_it_tells_whether_jobs_are_taken_and_computed(running: Running) -> None:
    await running.until(Readiness(takes_jobs=True, computes=True))
    await running.lane.leave()
    await running.until(Readiness(takes_jobs=True, computes=False))
    [model] = await running.front_end.models()
    assert (model.name, model.num_workers) == (running.front_end.of("").model, 0)


async def test_what_fails_in_a_look_ends_nothing_and_is_said_once(
    running: Running,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(redis_watch, "INTERVAL_S", 0.01)
    await running.until(Readiness(takes_jobs=True, computes=True))
    workers = Keys(running.front_end.of("").model).workers
    with Redis.from_url(redis_url) as redis:
        redis.rename(workers, f"{workers}, elsewhere")
        redis.set(workers, "no sorted set")
        for _ in range(3):
            await running.until(Readiness(takes_jobs=False, computes=False))
        redis.rename(f"{workers}, elsewhere", workers)
    await running.until(Readiness(takes_jobs=True, computes=True))
    assert caplog.text.count("the api cannot say how it stands: Corrupt") == 1
    stored = await running.front_end.submit(request())
    await running.lane.claim()
    await running.lane.commit(stored.job_id, [7], Finish("length"), index=0)
    assert (await anext(running.front_end.events(stored.job_id))).token_ids == (7,)


async def test_who_cannot_be_told_is_told_again(
    redis_url: str, card: ModelCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_watch, "INTERVAL_S", 0.01)
    told = asyncio.Queue[Readiness]()

    async def tell(now: Readiness) -> None:
        told.put_nowait(now)
        if told.qsize() < 5:
            raise ValueError("it cannot be told")

    async with JobQueue(redis_url, card.name) as queue:
        await queue.adopt_order()
        task = asyncio.create_task(FrontEnd(queue, card, ApiSettings()).run(tell))
        async with asyncio.timeout(WAIT_S):
            while told.qsize() < 6:
                await asyncio.sleep(0.001)
        assert not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
