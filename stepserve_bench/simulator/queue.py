"""The job queue in virtual time: the order is the real one, Redis is not there."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush

from scheduler_svc.order import (
    NUM_COMPARED,
    Lengths,
    Order,
    TokenCounters,
    output_cost,
    time_rank,
)
from stepserve_bench.simulator.job import Job
from stepserve_bench.simulator.system import System

_Entry = tuple[float, int, Job]


class SimulatedQueue:
    """Waiting jobs by rank; who asks first of equals is served first."""

    def __init__(self, system: System) -> None:
        self.order = Order(
            policy=system.policy,
            wait_weight=system.wait_weight,
            remaining_weight=system.remaining_weight,
            priority_weight=system.priority_weight,
            tenant_weights=system.tenant_weights,
        )
        self._is_fair = system.policy == "fair"
        self._lengths = Lengths()
        self._counters = TokenCounters()
        self._waiting: list[_Entry] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def submit(self, job: Job) -> None:
        """Give the job its rank, and let it wait."""
        estimate = self._lengths.estimate(job.tenant, job.max_tokens)
        if self._is_fair:
            job.expected = output_cost(job.prompt, estimate)
            weight = self.order.weight_of(job.tenant)
            job.rank = self._counters.submit(job.tenant, weight, job.expected)
        else:
            job.rank = time_rank(self.order, job.arrival_s, job.priority, estimate)
        heappush(self._waiting, (job.rank, job.number, job))

    def claim(
        self, max_jobs: int, max_rank: float, cached: Callable[[Job], int] | None = None
    ) -> list[Job]:
        """Return the next jobs below ``max_rank``.

        Of the first ones, no further behind than the order's slack, those go first of which the
        lane has most tokens ``cached``.
        """
        size = max_jobs if cached is None else max(max_jobs, NUM_COMPARED)
        page: list[_Entry] = []
        while self._waiting and len(page) < size and self._waiting[0][0] < max_rank:
            page.append(heappop(self._waiting))
        if cached is not None and len(page) > max_jobs:
            num_near = self.order.num_comparable([rank for rank, _, _ in page])
            page[:num_near] = sorted(page[:num_near], key=lambda entry: -cached(entry[2]))
        for entry in page[max_jobs:]:
            heappush(self._waiting, entry)
        claimed = [job for _, _, job in page[:max_jobs]]
        if self._is_fair:
            for job in claimed:
                reserved = job.expected / self.order.weight_of(job.tenant)
                self._counters.claimed(job.rank, reserved)
        return claimed

    def committed(self, job: Job, num_before: int) -> None:
        """Charge the tokens after ``num_before`` of the job's output."""
        if self._is_fair:
            before = output_cost(job.prompt, num_before) if num_before else 0.0
            weight = self.order.weight_of(job.tenant)
            after = output_cost(job.prompt, num_before + 1)
            self._counters.executed(job.tenant, weight, job.expected, before, after)

    def ended(self, job: Job) -> None:
        """Learn from its length; give back what was reserved for it and not used."""
        self._lengths.observe(job.tenant, job.num_done)
        if self._is_fair:
            weight = self.order.weight_of(job.tenant)
            cost = output_cost(job.prompt, job.num_done)
            self._counters.ended(job.tenant, weight, job.expected, cost)
