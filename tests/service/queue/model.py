"""What the scripts do, said again in plain Python, without keys, races or Redis."""

from __future__ import annotations

from dataclasses import dataclass, field

from protos.job import CommitRow, Finish
from scheduler_svc.queue import RowAnswer
from tests.service.queue.build import APPLIED, ENDED, EXISTED, short


@dataclass
class ModelJob:
    job_id: str
    n: int
    logs: list[list[int]] = field(default_factory=list)
    finishes: list[Finish | None] = field(default_factory=list)
    fingerprint: str | None = None
    holder: str | None = None

    def __post_init__(self) -> None:
        self.logs = [[] for _ in range(self.n)]
        self.finishes = [None] * self.n

    @property
    def ended(self) -> bool:
        return None not in self.finishes

    @property
    def state(self) -> str:
        return "ended" if self.ended else "running" if self.holder else "queued"


class ModelQueue:
    """Jobs in the order of their arrival; ``holder`` is the worker whose lease claimed one."""

    def __init__(self) -> None:
        self.jobs: dict[str, ModelJob] = {}
        self.idempotency: dict[str, str] = {}
        self.fingerprints: dict[str, str] = {}

    def submit(self, job_id: str, n: int, key: str, max_queued: int) -> str | None:
        if key in self.idempotency:
            return self.idempotency[key]
        if sum(job.state == "queued" for job in self.jobs.values()) >= max_queued:
            return None
        self.jobs[job_id] = ModelJob(job_id, n)
        if key:
            self.idempotency[key] = job_id
        return job_id

    def give_back(self, worker: str) -> None:
        for job in self.jobs.values():
            if job.holder == worker:
                job.holder = None

    def claim(self, worker: str, fingerprint: str, count: int) -> list[str]:
        self.fingerprints[worker] = fingerprint
        fit = [
            job
            for job in self.jobs.values()
            if job.state == "queued" and job.fingerprint in (None, fingerprint)
        ][:count]
        for job in fit:
            job.holder = worker
        return [job.job_id for job in fit]

    def requeue(self, worker: str, job_ids: list[str]) -> int:
        held = [self.jobs[i] for i in job_ids if i in self.jobs and self.jobs[i].holder == worker]
        for job in held:
            job.holder = None
        return len({job.job_id for job in held})

    def cancel(self, job_id: str, finish: Finish) -> bool:
        job = self.jobs.get(job_id)
        if job is None or job.ended:
            return False
        job.finishes = [old or finish for old in job.finishes]
        job.holder = None
        return True

    def commit(self, worker: str, row: CommitRow) -> RowAnswer:
        job = self.jobs.get(row.job_id)
        if job is None:
            return ENDED
        log, finish = job.logs[row.index], job.finishes[row.index]
        end = row.offset + len(row.token_ids)
        if finish is not None:
            return EXISTED if finish == row.finish and len(log) == end else ENDED
        if job.holder != worker:
            return ENDED
        if len(log) < row.offset:
            return short(len(log))
        if end <= len(log) and row.finish is None:
            return EXISTED
        if not log:
            job.fingerprint = job.fingerprint or self.fingerprints[worker]
        log += row.token_ids[len(log) - row.offset :]
        job.finishes[row.index] = row.finish
        if job.ended:
            job.holder = None
        return APPLIED
