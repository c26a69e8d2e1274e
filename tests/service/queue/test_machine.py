"""The scripts against the model, over any order of what lanes and clients may do."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from protos.errors import Exhausted
from protos.job import CommitRow, Finish
from scheduler_svc.queue import Fenced, JobQueue, Lease, LogRequest, QueueLimits
from tests.service.queue.build import STOP, claim_ids, row, spec
from tests.service.queue.model import ModelQueue

T = TypeVar("T")

MAX_QUEUED = 6
CANCELLED = Finish("cancelled")

workers = st.sampled_from(["a", "b"])
fingerprints = st.sampled_from(["old", "old", "new"])
jobs = st.integers(0, 12)
row_shapes = st.tuples(
    jobs, st.integers(0, 1), st.integers(-2, 1), st.integers(0, 3), st.booleans()
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
        return self.ids[number % len(self.ids)] if self.ids else "unknown"

    def retire(self, worker: str) -> None:
        if worker in self.leases:
            self.stale.append(self.leases.pop(worker))
        self.model.give_back(worker)

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

    @rule(worker=workers)
    def acquire(self, worker: str) -> None:
        lease = self.run(self.queue.acquire(worker, "holder", 0))
        assert lease is not None
        assert all(lease.epoch > old.epoch for old in self.stale if old.worker_id == worker)
        self.retire(worker)
        self.leases[worker] = lease

    @rule(worker=workers)
    def release(self, worker: str) -> None:
        if worker in self.leases:
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

    @rule(worker=workers, shapes=st.lists(row_shapes, min_size=1, max_size=5))
    def commit(self, worker: str, shapes: list[tuple[int, int, int, int, bool]]) -> None:
        if worker in self.leases:
            rows = [self.row(*shape) for shape in shapes]
            answers = self.run(self.queue.commit(self.leases[worker], rows))
            assert answers == [self.model.commit(worker, row) for row in rows]

    def row(self, number: int, index: int, shift: int, count: int, ends: bool) -> CommitRow:
        """Near the end of an output's log; a token is a function of where it stands."""
        job_id = self.job(number)
        job = self.model.jobs.get(job_id)
        index = index % job.n if job else index
        offset = max(0, (len(job.logs[index]) if job else 0) + shift)
        tokens = [1000 * index + at for at in range(offset, offset + count)]
        return row(job_id, offset, tokens, STOP if ends else None, index=index)

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
        running = {job.spec.job_id for job in await self.queue.jobs(state="running", limit=99)}
        assert running == {job.job_id for job in expected if job.state == "running"}
        assert await self.queue.num_queued() == sum(job.state == "queued" for job in expected)


def test_scripts_and_model_agree(redis_url: str) -> None:
    QueueMachine.url = redis_url
    QueueMachine.TestCase.settings = settings(
        max_examples=60,
        stateful_step_count=40,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    QueueMachine.TestCase("runTest").runTest()
