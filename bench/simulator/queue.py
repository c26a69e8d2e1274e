"""The job queue in virtual time: the order is the real one, Redis is not there."""

from __future__ import annotations

from heapq import heappop, heappush

from bench.simulator.system import System
from bench.simulator.workload import Job
from scheduler_svc.queue.order import FairShares, Lengths, Order, output_cost, time_rank

# A lane that looks for a prefix that it holds looks so far, as the real queue does.
_NUM_CANDIDATES = 64


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
        self._has_affinity = system.prefix_caching
        self._lengths = Lengths()
        self._shares = FairShares()
        self._waiting: list[tuple[float, int, Job]] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def submit(self, job: Job) -> None:
        """Give the job its rank, and let it wait."""
        estimate = self._lengths.estimate(job.tenant, job.max_tokens)
        if self._is_fair:
            job.expected = output_cost(job.prompt, estimate)
            weight = self.order.weight_of(job.tenant)
            job.rank = self._shares.submit(job.tenant, weight, job.expected)
        else:
            job.rank = time_rank(self.order, job.arrival_s, job.priority, estimate)
        heappush(self._waiting, (job.rank, job.number, job))

    def claim(self, max_jobs: int, max_rank: float, held: frozenset[int]) -> list[Job]:
        """Return the next jobs below ``max_rank``; near the first, the ``held`` groups' first."""
        claimed = []
        for _ in range(max_jobs):
            if not self._waiting or self._waiting[0][0] >= max_rank:
                break
            job = self._take(max_rank, held) if held and self._has_affinity else self._first()
            claimed.append(job)
            if self._is_fair:
                self._shares.claimed(job.rank)
        return claimed

    def committed(self, job: Job, num_before: int) -> None:
        """Charge the tokens after ``num_before`` of the job's output."""
        if self._is_fair:
            before = output_cost(job.prompt, num_before) if num_before else 0.0
            weight = self.order.weight_of(job.tenant)
            after = output_cost(job.prompt, num_before + 1)
            self._shares.executed(job.tenant, weight, job.expected, before, after)

    def ended(self, job: Job) -> None:
        """Learn from its length; give back what was reserved for it and not used."""
        self._lengths.observe(job.tenant, job.num_done)
        if self._is_fair:
            weight = self.order.weight_of(job.tenant)
            cost = output_cost(job.prompt, job.num_done)
            self._shares.ended(job.tenant, weight, job.expected, cost)

    def _first(self) -> Job:
        return heappop(self._waiting)[2]

    def _take(self, max_rank: float, held: frozenset[int]) -> Job:
        """Take the first job whose prefix is held, no further than the slack behind the first."""
        last = min(self._waiting[0][0] + self.order.affinity_slack, max_rank)
        passed: list[tuple[float, int, Job]] = []
        chosen = None
        while self._waiting and self._waiting[0][0] <= last and len(passed) < _NUM_CANDIDATES:
            entry = heappop(self._waiting)
            if entry[2].prefix and entry[2].group in held and entry[0] < max_rank:
                chosen = entry[2]
                break
            passed.append(entry)
        for entry in passed[0 if chosen else 1 :]:
            heappush(self._waiting, entry)
        return chosen or passed[0][2]
