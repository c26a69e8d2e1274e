"""The scripts against the model, over any order of what lanes and clients may do."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from protos.errors import Exhausted
from protos.job import CommitRow, Finish
from scheduler_svc.queue import Fenced, JobQueue, Lease, LogRequest, QueueLimits
from tests.service.queue.build import STOP, claim_ids, row, spec
from tests.service.queue.model import ModelQueue

T = TypeVar("T")

MAX_QUEUED = 6
CANCELLED = Finish("cancelled")

workers = st.sampled_from(["a", "b"])
fingerprints = st.sampled_from(["old", "old", "old", "new"])
jobs = st.integers(0, 5)
row_shapes = st.tuples(
    jobs, st.integers(0, 1), st.integers(-2, 1), st.integers(0, 3), st.integers(0, 3)
)

_numbers = itertools.count()


class QueueMachine(RuleBasedStateMachine):
    """Leases expire at once, so any acquire is a takeover; old leases are tried again later."""

    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        limits = QueueLimits(max_queued_jobs=MAX_QUEUED)
        self.queue = JobQueue(self.url, f"machine/{next(_numbers)}", limits)
        self.model = ModelQueue()
        self.ids: list[str] = []
        self.leases: dict[str, Lease] = {}
        self.stale: list[Lease] = []

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(coroutine)

    def teardown(self) -> None:
        self.run(self.queue.close())
        self.runner.close()

    def job(self, number: int) -> str:
        return self.ids[-1 - number % len(self.ids)] if self.ids else "unknown"

    def retire(self, worker: str) -> None:
        if worker in self.leases:
            self.stale.append(self.leases.pop(worker))
        self.model.give_back(worker)

    @initialize()
    def begin(self) -> None:
        for n in (1, 2, 1):
            self.submit(n, "")
        for worker in ("a", "b"):
            self.acquire(worker)
        self.claim("a", "old", 2)

    @rule(n=st.integers(1, 2), key=st.sampled_from(["", "", "x", "y"]))
    def submit(self, n: int, key: str) -> None:
        asked = spec(n=n, idempotency_key=key)
        expected = self.model.submit(asked.job_id, n, key, MAX_QUEUED)
        try:
            answer = self.run(self.queue.submit(asked))
        except Exhausted:
            assert expected is None
            return
        assert answer.job_id == expected
        assert answer.existed == (expected != asked.job_id)
        if not answer.existed:
            self.ids.append(asked.job_id)

    @rule(worker=workers, luck=st.integers(0, 3))
    def lose(self, worker: str, luck: int) -> None:
        if luck == 0 or worker not in self.leases:
            self.acquire(worker)

    def acquire(self, worker: str) -> None:
        lease = self.run(self.queue.acquire(worker, "holder", 0))
        assert lease is not None
        assert all(lease.epoch > old.epoch for old in self.stale if old.worker_id == worker)
        self.retire(worker)
        self.leases[worker] = lease

    @rule(worker=workers, luck=st.integers(0, 3))
    def release(self, worker: str, luck: int) -> None:
        if worker in self.leases and luck == 0:
            assert self.run(self.queue.release(self.leases[worker]))
            self.retire(worker)

    @rule(worker=workers, fingerprint=fingerprints, count=st.integers(1, 4))
    def claim(self, worker: str, fingerprint: str, count: int) -> None:
        if worker in self.leases:
            claimed = self.run(claim_ids(self.queue, self.leases[worker], count, fingerprint))
            assert claimed == self.model.claim(worker, fingerprint, count)

    @rule(worker=workers, numbers=st.lists(jobs, max_size=3, unique=True))
    def requeue(self, worker: str, numbers: list[int]) -> None:
        if worker in self.leases:
            ids = [self.job(number) for number in numbers]
            given = self.run(self.queue.requeue(self.leases[worker], ids))
            assert given == self.model.requeue(worker, ids)

    @rule(number=jobs)
    def cancel(self, number: int) -> None:
        job_id = self.job(number)
        cancelled = self.run(self.queue.cancel(job_id))
        assert cancelled == self.model.cancel(job_id, CANCELLED)

    @rule(worker=workers, shapes=st.lists(row_shapes, min_size=2, max_size=6))
    def commits(self, worker: str, shapes: list[tuple[int, int, int, int, int]]) -> None:
        self.commit(worker, shapes)

    def commit(self, worker: str, shapes: list[tuple[int, int, int, int, int]]) -> None:
        if worker in self.leases:
            rows = [self.row(worker, *shape) for shape in shapes]
            answers = self.run(self.queue.commit(self.leases[worker], rows))
            assert answers == [self.model.commit(worker, row) for row in rows]

    @rule(worker=workers, ends=st.integers(0, 3))
    def step(self, worker: str, ends: int) -> None:
        """What a lane does all day: one more token for everything it holds."""
        held = [job for job in self.model.jobs.values() if job.holder == worker]
        shapes = [(at, index, 0, 1, ends) for at, job in enumerate(held) for index in range(job.n)]
        if shapes:
            self.commit(worker, shapes[:6])

    def row(self, worker: str, number: int, *shape: int) -> CommitRow:
        """Near the end of a log, mostly of a claimed job; tokens say where they stand."""
        held = [job.job_id for job in self.model.jobs.values() if job.holder == worker]
        job_id = held[number % len(held)] if held and number < 4 else self.job(number)
        index, shift, count, ends = shape
        job = self.model.jobs.get(job_id)
        index = index % job.n if job else index
        offset = max(0, (len(job.logs[index]) if job else 0) + shift)
        tokens = [1000 * index + at for at in range(offset, offset + count)]
        return row(job_id, offset, tokens, STOP if ends == 3 else None, index=index)

    @precondition(lambda self: self.stale)
    @rule(number=jobs, act=st.sampled_from(["commit", "claim", "requeue", "renew", "release"]))
    def act_with_a_lost_lease(self, number: int, act: str) -> None:
        lease = self.stale[number % len(self.stale)]
        job_id = self.job(number)
        if act == "renew":
            assert not self.run(self.queue.renew(lease))
            return
        if act == "release":
            assert not self.run(self.queue.release(lease))
            return
        acts: dict[str, Callable[[], Coroutine[Any, Any, object]]] = {
            "commit": lambda: self.queue.commit(lease, [row(job_id, 0, [1], STOP)]),
            "claim": lambda: self.queue.claim(lease, "old", 2),
            "requeue": lambda: self.queue.requeue(lease, [job_id]),
        }
        with pytest.raises(Fenced):
            self.run(acts[act]())

    @invariant()
    def redis_holds_what_the_model_holds(self) -> None:
        self.run(self.compare())

    async def compare(self) -> None:
        expected = [self.model.jobs[job_id] for job_id in self.ids]
        places = [(job, index) for job in expected for index in range(job.n)]
        logs = await self.queue.read([LogRequest(job.job_id, index) for job, index in places])
        for (job, index), log in zip(places, logs, strict=True):
            assert log is not None
            assert list(log.token_ids) == job.logs[index]
            assert log.finish == job.finishes[index]
        states = {job.spec.job_id: job.state for job in await self.queue.jobs(limit=99)}
        assert states == {job.job_id: job.state for job in expected}
        assert await self.queue.num_queued() == sum(job.state == "queued" for job in expected)


def test_scripts_and_model_agree(redis_url: str) -> None:
    QueueMachine.url = redis_url
    QueueMachine.TestCase.settings = settings(
        max_examples=50,
        stateful_step_count=35,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    QueueMachine.TestCase("runTest").runTest()
