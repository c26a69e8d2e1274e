"""The scripts against the model, over any order of what lanes and clients may do."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, TypeVar

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from redis import Redis

from scheduler_svc.queue import Fenced, JobQueue, Lease, LogRequest, Order, QueueLimits
from scheduler_svc.queue.keys import Keys
from stepserve.protocol.errors import Exhausted, InvalidRequest
from stepserve.protocol.job import CommitRow, Finish
from tests.scheduler_svc.queue.build import STOP, make_overdue, move_times, row, spec
from tests.scheduler_svc.queue.model import ModelQueue

T = TypeVar("T")

MAX_QUEUED = 6
MAX_ENDED = 4
CANCELLED = Finish("cancelled")
ORDERS = [
    Order(),
    Order(policy="priority"),
    Order(policy="priority", wait_weight=0.25, remaining_weight=3.0, priority_weight=0.5),
    Order(policy="fair", tenant_weights={"a": 3.0}),
    Order(policy="fair", tenant_weights={"b": 0.5}),
]

workers = st.sampled_from(["a", "b"])
fingerprints = st.sampled_from(["old", "old", "old", "new"])
jobs = st.integers(0, 5)
row_shapes = st.tuples(
    jobs, st.integers(0, 1), st.integers(-2, 1), st.integers(0, 3), st.integers(0, 3)
)

envelopes = st.fixed_dictionaries(
    {
        "tenant": st.sampled_from(["a", "b"]),
        "priority": st.sampled_from([0, 0, -10, 7]),
        "max_tokens": st.sampled_from([1, 3, 100]),
        "prompt": st.sampled_from([(1,), tuple(range(9))]),
        "deadline_s": st.sampled_from([0.0, 1e6]),
    }
)

_numbers = itertools.count()


class QueueMachine(RuleBasedStateMachine):
    """Leases expire at once, so any acquire is a takeover; old leases are tried again later."""

    url = ""
    first_order = 0

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        limits = QueueLimits(
            max_queued_jobs=MAX_QUEUED, lease_grace_s=1e6, max_ended_jobs=MAX_ENDED
        )
        name = f"machine/{next(_numbers)}"
        self.queues = [JobQueue(self.url, name, limits, order) for order in ORDERS]
        self.queue = self.queues[self.first_order]
        self.redis = Redis.from_url(self.url)
        self.keys = Keys(name)
        self.model = ModelQueue(ORDERS[self.first_order])
        self.ids: list[str] = []
        self.leases: dict[str, Lease] = {}
        self.stale: list[Lease] = []

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(coroutine)

    def teardown(self) -> None:
        for queue in self.queues:
            self.run(queue.close())
        self.redis.close()
        self.runner.close()

    def job(self, number: int) -> str:
        return self.ids[-1 - number % len(self.ids)] if self.ids else "unknown"

    def retire(self, worker: str) -> None:
        if worker in self.leases:
            self.stale.append(self.leases.pop(worker))
        self.model.give_back(worker)

    @initialize()
    def begin(self) -> None:
        for n, tenant in ((1, "a"), (2, "b"), (1, "a")):
            self.submit(n, "", {"tenant": tenant})
        for worker in ("a", "b"):
            self.acquire(worker)
        self.claim("a", "old", 2, None)

    @rule(
        n=st.integers(1, 2),
        key=st.sampled_from(["", "", "x", "y"]),
        envelope=envelopes,
        digest=st.sampled_from(["one", "one", "another"]),
    )
    def submit(self, n: int, key: str, envelope: dict[str, Any], digest: str = "one") -> None:
        # A job id of one tenant: keys of two tenants are never the same.
        key = key and f"{envelope['tenant']}{key}"
        asked = spec(n=n, idempotency_key=key, **envelope)
        try:
            existing = self.model.find(key, MAX_QUEUED)
        except OverflowError:
            with pytest.raises(Exhausted):
                self.run(self.queue.submit(asked))
            return
        if existing is not None and self.model.digests[existing] != digest:
            with pytest.raises(InvalidRequest, match=existing):
                self.run(self.queue.submit(asked, digest))
            return
        answer = self.run(self.queue.submit(asked, digest))
        assert answer.job_id == (existing or asked.job_id)
        assert answer.existed == (existing is not None)
        if existing is None:
            self.ids.append(asked.job_id)
            arrival, turn = self.redis.hmget(self.keys.job(asked.job_id), "arrival", "turn")
            assert abs(float(arrival) - time.time()) < 60.0
            turn_s = float(turn or arrival)
            live = [job for job in self.model.jobs.values() if not job.ended]
            assert all(turn_s >= job.spec.arrival_s for job in live)
            self.model.submit(replace(asked, arrival_s=turn_s), digest)

    @rule(number=st.integers(0, len(ORDERS) - 1), luck=st.integers(0, 3))
    def adopt(self, number: int, luck: int) -> None:
        if luck == 0:
            self.queue = self.queues[number]
            self.run(self.queue.adopt_order())
            self.model.adopt(ORDERS[number])

    @rule(number=jobs, luck=st.integers(0, 3))
    def pass_a_deadline(self, number: int, luck: int) -> None:
        job = self.model.jobs.get(self.job(number))
        if job is not None and job.spec.deadline_s and not job.ended and luck == 0:
            make_overdue(self.redis, self.keys, job.job_id)
            job.is_overdue = True

    @rule(by_s=st.sampled_from([3600.0, 3600.0, -3600.0]), luck=st.integers(0, 3))
    def set_clock(self, by_s: float, luck: int) -> None:
        """It goes back (what is stored lies ahead then) or forward."""
        if luck == 0:
            move_times(self.redis, self.keys, by_s)
            self.model.move_times(by_s)

    @rule()
    def sweep(self) -> None:
        ended = {job.job_id for job in self.model.jobs.values() if job.ended}
        num_overdue = self.model.sweep()
        swept = self.run(self.queue.sweep())
        assert swept.num_overdue == num_overdue
        assert swept.num_forgotten == max(0, len(ended) - MAX_ENDED)
        known = {job_id.decode() for job_id in self.redis.zrange(self.keys.jobs, 0, -1)}
        gone = self.model.jobs.keys() - known
        assert gone <= ended, "who goes on is never forgotten"
        assert len(gone) == swept.num_forgotten
        self.model.forget(gone)
        self.ids = [job_id for job_id in self.ids if job_id not in gone]

    @rule(worker=workers, luck=st.integers(0, 3))
    def lose(self, worker: str, luck: int) -> None:
        if luck == 0 or worker not in self.leases:
            self.acquire(worker)

    def acquire(self, worker: str) -> None:
        lease = self.run(self.queue.acquire(worker, "holder", 0))
        assert lease is not None
        assert all(lease.epoch > old.epoch for old in (*self.stale, *self.leases.values()))
        self.retire(worker)
        self.leases[worker] = lease

    @rule(worker=workers, luck=st.integers(0, 3))
    def release(self, worker: str, luck: int) -> None:
        if worker in self.leases and luck == 0:
            assert self.run(self.queue.release(self.leases[worker]))
            self.retire(worker)

    @rule(
        worker=workers,
        fingerprint=fingerprints,
        count=st.integers(1, 4),
        below=st.sampled_from([None, None, 1, 3]),
    )
    def claim(self, worker: str, fingerprint: str, count: int, below: int | None) -> None:
        """``below``: whose rank theirs must be below, by its position in line."""
        ranks = [job.rank for job in self.model.waiting()]
        max_rank = ranks[below] if below is not None and below < len(ranks) else math.inf
        if worker in self.leases:
            lease = self.leases[worker]
            claimed = self.run(self.queue.claim(lease, fingerprint, count, max_rank))
            expected = self.model.claim(worker, fingerprint, count, max_rank)
            assert [(job.spec.job_id, job.rank) for job in claimed] == expected

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
            assert not self.run(self.queue.renew(lease)).is_ours
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
        outputs = [(job, index) for job in expected for index in range(job.n)]
        logs = await self.queue.read([LogRequest(job.job_id, index) for job, index in outputs])
        for (job, index), log in zip(outputs, logs, strict=True):
            assert log is not None
            assert list(log.token_ids) == job.logs[index]
            assert log.finish == job.finishes[index]
        states = {job.spec.job_id: job.state for job in await self.queue.jobs(limit=99)}
        assert states == {job.job_id: job.state for job in expected}
        assert await self.queue.num_queued() == sum(job.state == "queued" for job in expected)
        self.compare_ranks()

    def compare_ranks(self) -> None:
        """Bit by bit: the scripts and the pure twins do the same arithmetic."""
        indices = [self.keys.queue, *map(self.keys.claims, ("a", "b"))]
        found = [pair for index in indices for pair in self.redis.zrange(index, 0, -1, False, True)]
        live = [job for job in self.model.jobs.values() if not job.ended]
        assert {i.decode(): rank for i, rank in found} == {job.job_id: job.rank for job in live}
        counters = self.redis.hgetall(self.keys.counters)
        expected = self.model.counters
        assert {t.decode(): float(counter) for t, counter in counters.items()} == expected.counters
        assert float(self.redis.get(self.keys.vtime) or 0.0) == expected.virtual_time
        assert self.redis.zcard(self.keys.unranked) == 0


@pytest.mark.parametrize(
    "count", [12, pytest.param(200, marks=[pytest.mark.long, pytest.mark.timeout(1200)])]
)
@pytest.mark.parametrize("first_order", [0, 1, 3], ids=["fcfs", "priority", "fair"])
def test_scripts_and_model_agree(redis_url: str, first_order: int, count: int) -> None:
    QueueMachine.url = redis_url
    QueueMachine.first_order = first_order
    QueueMachine.TestCase.settings = settings(
        max_examples=count,
        stateful_step_count=35,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    QueueMachine.TestCase("runTest").runTest()
