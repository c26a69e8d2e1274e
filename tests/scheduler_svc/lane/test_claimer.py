"""A claimer over a real queue: the newest wish counts, and is answered once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from math import inf
from uuid import uuid4

import pytest

from scheduler_svc.core.events import Claim
from scheduler_svc.core.probation import Probation
from scheduler_svc.lane import claimer as claimer_module
from scheduler_svc.lane.claimer import Claimant, Claimer, StepsAside
from scheduler_svc.queue import Accused, JobQueue, Order, RowKind
from stepserve.protocol.job import ClaimedJob, CommitRow, JobSpec
from stepserve.protocol.sampling import Sampling


@dataclass
class Asked:
    """A claimer that runs, its queue, and what it was answered, one list an answer."""

    queue: JobQueue
    claimer: Claimer
    answers: list[list[str]]
    task: asyncio.Task[None]

    async def submit(self, job_id: str, priority: int = 0) -> None:
        sampling = Sampling(max_tokens=4)
        await self.queue.submit(JobSpec(job_id, "m", (1, 2), sampling, priority=priority))

    async def answered(self, count: int) -> None:
        async with asyncio.timeout(20):
            while len(self.answers) < count:
                await asyncio.sleep(0.005)


@asynccontextmanager
async def asked(redis_url: str) -> AsyncIterator[Asked]:
    order = Order(policy="priority")
    async with JobQueue(redis_url, f"claimer-{uuid4().hex[:8]}", order=order) as queue:
        await queue.adopt_order()
        lease = await queue.acquire("worker:1", "me", 60_000)
        assert lease is not None
        answers: list[list[str]] = []

        async def requeue_orphans() -> None:
            """Nothing was lost here."""

        def take(jobs: Sequence[ClaimedJob]) -> None:
            answers.append([job.spec.job_id for job in jobs])

        claimant = Claimant(lease, "print", 1000)
        claimer = Claimer(queue, claimant, Probation(2), requeue_orphans, take)
        task = asyncio.create_task(claimer.run())
        try:
            yield Asked(queue, claimer, answers, task)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_a_wish_stands_until_there_are_jobs(redis_url: str) -> None:
    async with asked(redis_url) as subject:
        subject.claimer.want(Claim(2))
        await subject.submit("a")
        await subject.answered(1)
        assert subject.answers == [["a"]]


async def test_one_that_does_not_stand_is_answered_by_nobody(redis_url: str) -> None:
    async with asked(redis_url) as subject:
        subject.claimer.want(Claim(2, stands=False))
        await subject.answered(1)
        assert subject.answers == [[]]


async def test_a_newer_wish_that_allows_more_is_looked_at_at_once(redis_url: str) -> None:
    async with asked(redis_url) as subject:
        now_s = await subject.queue.now_s()
        subject.claimer.want(Claim(1, now_s - 10))
        await subject.submit("a")
        await subject.submit("urgent", priority=10)
        await subject.answered(1)
        assert subject.answers == [["urgent"]]
        subject.claimer.absorbed()
        subject.claimer.want(Claim(1, now_s - 10))
        subject.claimer.want(Claim(1))
        await subject.answered(2)
        assert subject.answers[1:] == [["a"]]


async def test_what_is_wished_before_the_answer_is_absorbed_is_void(redis_url: str) -> None:
    async with asked(redis_url) as subject:
        for job_id in ("a", "b", "c"):
            await subject.submit(job_id)
        subject.claimer.want(Claim(1))
        await subject.answered(1)
        # The core has not seen "a" yet; it wishes for the same one again.
        subject.claimer.want(Claim(1))
        subject.claimer.absorbed()
        subject.claimer.want(Claim(1))
        await subject.answered(2)
        assert await subject.queue.num_queued() == 1
        assert subject.answers == [["a"], ["b"]]


async def test_a_job_that_has_become_too_long_is_left_to_a_larger_worker(redis_url: str) -> None:
    async with asked(redis_url) as it:
        earlier = await it.queue.acquire("worker:2", "me", 60_000)
        assert earlier is not None
        spec = JobSpec("long", "m", (1, 2), Sampling(max_tokens=2000), is_open_ended=True)
        await it.queue.submit(spec)
        assert await it.queue.claim(earlier, "print", 1, max_context=2002)
        row = CommitRow("long", 0, 0, (7,) * 998)
        assert (await it.queue.commit(earlier, [row]))[0].kind is RowKind.APPLIED
        await it.queue.requeue(earlier, ["long"])
        await it.submit("short")
        it.claimer.want(Claim(2, inf))
        await it.answered(1)
        assert it.answers == [["short"]]
        [again] = await it.queue.claim(earlier, "print", 1, max_context=2002)
        assert again.spec.job_id == "long"
        assert len(again.outputs[0].token_ids) == 998


async def test_the_lane_that_holds_least_makes_way_for_suspects_that_have_waited_long(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claimer_module, "MAKE_WAY_AFTER_S", 0.05)
    monkeypatch.setattr(claimer_module, "DOORBELL_WAIT_S", 0.02)
    async with asked(redis_url) as it:
        crashed = await it.queue.acquire("worker:2", "me", 60_000)
        busy = await it.queue.acquire("worker:3", "me", 60_000)
        assert crashed is not None
        assert busy is not None
        for lease, job_ids in ((crashed, ["suspect"]), (busy, ["b", "c"])):
            for job_id in job_ids:
                await it.submit(job_id)
            await it.queue.claim(lease, "print", 2)
        await it.submit("ours")
        it.claimer.want(Claim(1))
        await it.answered(1)
        it.claimer.absorbed()
        it.claimer.want(Claim(1))
        await it.queue.strike(crashed, [Accused("suspect")], "it crashed")
        await it.queue.release(crashed)
        async with asyncio.timeout(20):
            with pytest.raises(StepsAside):
                await it.task
        assert it.answers == [["ours"]]
