"""A job that comes at a time, and what became of it: when each of its tokens came."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from stepserve import Request, SamplingParams
from stepserve.protocol.inference import StreamEvent
from stepserve_bench.workloads.jobs import BenchJob


@dataclass(frozen=True, slots=True)
class Arrival:
    """A job, and when it is due: seconds after the load began. ``deadline_s`` 0: it has none."""

    at_s: float
    job: BenchJob
    tenant: str = ""
    priority: int = 0
    deadline_s: float = 0.0

    def request(self) -> Request:
        return Request(
            prompt_token_ids=self.job.prompt_token_ids,
            sampling=SamplingParams(
                max_tokens=self.job.max_tokens, temperature=0.0, ignore_eos=True
            ),
            tenant=self.tenant,
            priority=self.priority,
            deadline_s=self.deadline_s,
        )


@dataclass(slots=True)
class JobTimes:
    """When one job was submitted and when each of its tokens came, in seconds of one clock."""

    submitted_s: float
    token_times_s: list[float] = field(default_factory=list)


@dataclass(slots=True)
class Outcome:
    """What became of an arrival. Its times count from when it was due, not from when it was sent.

    A load generator that lags would otherwise hide the wait that it causes.
    """

    arrival: Arrival
    times: JobTimes
    job_id: str = ""
    token_ids: list[int] = field(default_factory=list)
    finish_reason: str = ""
    is_refused: bool = False

    @property
    def has_begun(self) -> bool:
        """Whether it got any token."""
        return bool(self.token_ids)

    @property
    def has_ended(self) -> bool:
        """Whether it got every token that it asked for."""
        return self.finish_reason == "length"

    @property
    def ttft_s(self) -> float:
        return self.times.token_times_s[0] - self.times.submitted_s

    @property
    def latency_s(self) -> float:
        return self.times.token_times_s[-1] - self.times.submitted_s

    def take(self, event: StreamEvent) -> None:
        """Note one event of the job's stream, now."""
        self.job_id = event.job_id
        self.times.token_times_s += [time.time()] * len(event.token_ids)
        self.token_ids += event.token_ids
        self.finish_reason = event.finish_reason or self.finish_reason
