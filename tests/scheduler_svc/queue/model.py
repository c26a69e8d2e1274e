"""What the scripts do, said again in plain Python, without keys, races or Redis."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from scheduler_svc.order import Lengths, TokenCounters, output_cost, time_rank
from scheduler_svc.queue import Order, RowAnswer
from stepserve.protocol.job import CommitRow, Finish, JobSpec
from tests.scheduler_svc.queue.build import APPLIED, ENDED, EXISTED, OVERDUE, UNKNOWN, short


@dataclass
class Reservation:
    """What a job has reserved under "fair", for each of its outputs."""

    weight: float
    expected: float


@dataclass
class ModelJob:
    """``was_held``: a lane has claimed it since it was last given back on purpose."""

    spec: JobSpec
    rank: float = 0.0
    reserved: Reservation | None = None
    logs: list[list[int]] = field(default_factory=list)
    finishes: list[Finish | None] = field(default_factory=list)
    fingerprint: str | None = None
    holder: str | None = None
    was_held: bool = False
    is_overdue: bool = False

    def __post_init__(self) -> None:
        self.logs = [[] for _ in range(self.n)]
        self.finishes = [None] * self.n

    @property
    def job_id(self) -> str:
        return self.spec.job_id

    @property
    def n(self) -> int:
        return self.spec.sampling.n

    @property
    def ended(self) -> bool:
        return None not in self.finishes

    @property
    def state(self) -> str:
        return "ended" if self.ended else "running" if self.holder else "queued"

    def cost(self, index: int) -> float:
        num_tokens = len(self.logs[index])
        if not num_tokens and not self.was_held:
            return 0.0
        return output_cost(len(self.spec.prompt_token_ids), num_tokens)


class ModelQueue:
    """Jobs by rank; ``holder`` is the worker whose lease claimed one."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.counters = TokenCounters()
        self.lengths = Lengths()
        self.jobs: dict[str, ModelJob] = {}
        self.idempotency: dict[str, str] = {}
        self.digests: dict[str, str] = {}
        self.fingerprints: dict[str, str] = {}

    def find(self, key: str, max_queued: int) -> str | None:
        """The job of an idempotency key; none where a new one is possible. Raises when full."""
        if key in self.idempotency:
            return self.idempotency[key]
        if len(self.waiting()) >= max_queued:
            raise OverflowError
        return None

    def submit(self, spec: JobSpec, digest: str) -> None:
        """``spec`` says when it arrived, ``digest`` what was asked."""
        self.digests[spec.job_id] = digest
        job = self.jobs[spec.job_id] = ModelJob(spec)
        self.rank(job)
        if spec.idempotency_key:
            self.idempotency[spec.idempotency_key] = spec.job_id

    def move_times(self, by_s: float) -> None:
        """The clock went the other way. ``arrival_s`` is as it ranks: a job's turn."""
        for job in self.jobs.values():
            arrival_s = float(f"{job.spec.arrival_s + by_s:.6f}")
            job.spec = replace(job.spec, arrival_s=arrival_s)
            if self.order.policy != "fair":
                job.rank += by_s

    def rank(self, job: ModelJob) -> None:
        spec, tenant = job.spec, job.spec.tenant
        estimate = self.lengths.estimate(tenant, spec.sampling.max_tokens)
        job.reserved = None
        if self.order.policy != "fair":
            job.rank = time_rank(self.order, spec.arrival_s, spec.priority, estimate)
            return
        expected = output_cost(len(spec.prompt_token_ids), estimate)
        job.reserved = Reservation(self.order.weight_of(tenant), expected)
        num_open = job.finishes.count(None)
        job.rank = self.counters.submit(tenant, job.reserved.weight, num_open * expected)

    def adopt(self, order: Order) -> None:
        was_fair = self.order.policy == "fair"
        if order == self.order:
            return
        self.order = order
        if was_fair and order.policy == "fair":
            return
        self.counters = TokenCounters()
        for job in in_turn(job for job in self.jobs.values() if not job.ended):
            self.rank(job)

    def waiting(self) -> list[ModelJob]:
        return in_turn(job for job in self.jobs.values() if job.state == "queued")

    def give_back(self, worker: str) -> None:
        for job in self.jobs.values():
            if job.holder == worker:
                job.holder = None

    def claim(
        self, worker: str, fingerprint: str, count: int, max_rank: float = math.inf
    ) -> list[tuple[str, float]]:
        self.fingerprints[worker] = fingerprint
        fit = [
            job
            for job in self.waiting()
            if job.fingerprint in (None, fingerprint) and job.rank < max_rank
            if not job.is_overdue
        ][:count]
        for job in fit:
            job.holder, job.was_held = worker, True
            if job.reserved is not None:
                reserved = job.finishes.count(None) * job.reserved.expected / job.reserved.weight
                self.counters.claimed(job.rank, reserved)
        return [(job.job_id, job.rank) for job in fit]

    def requeue(self, worker: str, job_ids: list[str]) -> int:
        held = [self.jobs[i] for i in job_ids if i in self.jobs and self.jobs[i].holder == worker]
        for job in held:
            job.holder, job.was_held = None, False
        return len({job.job_id for job in held})

    def cancel(self, job_id: str, finish: Finish) -> bool:
        job = self.jobs.get(job_id)
        if job is None or job.ended:
            return False
        for index, old in enumerate(job.finishes):
            if old is None:
                self.end(job, index, finish)
        return True

    def sweep(self) -> int:
        return sum(
            [self.cancel(job.job_id, OVERDUE) for job in self.jobs.values() if job.is_overdue]
        )

    def forget(self, job_ids: Iterable[str]) -> None:
        for job_id in job_ids:
            key = self.jobs.pop(job_id).spec.idempotency_key
            self.idempotency.pop(key, None)

    def end(self, job: ModelJob, index: int, finish: Finish) -> None:
        job.finishes[index] = finish
        if job.reserved is not None:
            reserved, cost = job.reserved, job.cost(index)
            self.counters.ended(job.spec.tenant, reserved.weight, reserved.expected, cost)
        if job.ended:
            job.holder = None

    def commit(self, worker: str, row: CommitRow) -> RowAnswer:
        job = self.jobs.get(row.job_id)
        if job is None:
            return ENDED
        log, finish = job.logs[row.index], job.finishes[row.index]
        end = row.offset + len(row.token_ids)
        if finish is not None:
            return EXISTED if finish == row.finish and len(log) == end else ENDED
        if job.holder != worker or job.is_overdue:
            if job.holder == worker:
                self.end(job, row.index, OVERDUE)
            return ENDED if job.was_held else UNKNOWN
        if len(log) < row.offset:
            return short(len(log))
        if end <= len(log) and row.finish is None:
            return EXISTED
        self.apply(job, row)
        return APPLIED

    def apply(self, job: ModelJob, row: CommitRow) -> None:
        log, before = job.logs[row.index], job.cost(row.index)
        if not log:
            job.fingerprint = job.fingerprint or self.fingerprints[str(job.holder)]
        log += row.token_ids[len(log) - row.offset :]
        tenant, reserved = job.spec.tenant, job.reserved
        if reserved is not None:
            after = job.cost(row.index)
            self.counters.executed(tenant, reserved.weight, reserved.expected, before, after)
        if row.finish is not None:
            self.end(job, row.index, row.finish)
            if row.finish.reason in ("stop", "length"):
                self.lengths.observe(tenant, len(log))


def in_turn(jobs: Iterable[ModelJob]) -> list[ModelJob]:
    return sorted(jobs, key=lambda job: (job.rank, job.job_id))
