"""The order in which jobs are taken: three policies, and what their ranks are made of.

A rank is a constant of a job, chosen when it is submitted; the lowest is taken first.
Pure: queue.lua does the same to what is in Redis, and the tests hold the two together;
a simulator uses these.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Policy = Literal["fcfs", "priority", "fair"]

# What a token costs under "fair". An output token takes a step of its own; the weights are
# those of Sheng et al., "Fairness in Serving Large Language Models" (2024).
PROMPT_TOKEN_COST, OUTPUT_TOKEN_COST = 1.0, 2.0

# How far affinity to a cached prefix may go against the order: virtual tokens, or arrival.
_FAIR_SLACK, _TIME_SLACK_S = 2048.0, 1.0
# So many of the first in line are looked at for cached prefixes.
NUM_COMPARED = 16

# Beyond these a weight would drown times and counters, or drown in them.
_MIN_WEIGHT, _MAX_WEIGHT = 1e-3, 1e3

# Of what a claimed job reserved, the virtual time advances by this part: the pace of so many
# tenants that are served at once. With fewer, tags move it faster anyway.
_NUM_PACED = 64

# So many outputs must have finished before their mean length says anything.
_MIN_FINISHED = 8
# At so many the counts are halved: what finished long ago fades.
_MAX_FINISHED = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A policy and its weights. A tenant without a weight has 1.0.

    Raises ValueError where a job could starve: weights are from 0.001 to 1000; those of
    remaining length and priority may also be 0.
    """

    policy: Policy = "fcfs"
    wait_weight: float = 1.0
    remaining_weight: float = 0.5
    priority_weight: float = 2.0
    tenant_weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        weights = {"wait_weight": self.wait_weight}
        weights |= {f"tenant_weights[{name!r}]": w for name, w in self.tenant_weights.items()}
        for name in ("remaining_weight", "priority_weight"):
            if getattr(self, name) != 0:
                weights[name] = getattr(self, name)
        for name, weight in weights.items():
            if not _MIN_WEIGHT <= weight <= _MAX_WEIGHT:
                raise ValueError(f"{name} must be from {_MIN_WEIGHT} to {_MAX_WEIGHT:.0f}")

    def weight_of(self, tenant: str) -> float:
        return self.tenant_weights.get(tenant, 1.0)

    @property
    def affinity_slack(self) -> float:
        """How far behind the first in line a job of a cached prefix may go first, in ranks."""
        return _FAIR_SLACK if self.policy == "fair" else _TIME_SLACK_S

    def num_comparable(self, ranks: Sequence[float]) -> int:
        """Return how many of the first in line may be reordered for a cached prefix."""
        head = ranks[:NUM_COMPARED]
        return bisect_right(head, head[0] + self.affinity_slack) if head else 0


def time_rank(order: Order, arrival_s: float, priority: int, estimate: float) -> float:
    """Return the rank of a job under "fcfs" or "priority", in seconds.

    The sources' score is ``wait * 1.0 + 0.5 / remaining + 2.0 * priority``, highest first.
    Waiting time grows alike for all, so this constant orders jobs as the score does at any
    moment, lowest first. ``estimate`` is the expected length of an output, in tokens.
    """
    if order.policy == "fcfs":
        return arrival_s
    score = order.priority_weight * priority + order.remaining_weight / estimate
    return arrival_s - score / order.wait_weight


def output_cost(num_prompt_tokens: int, num_tokens: float) -> float:
    """Return what an output of ``num_tokens`` costs, in weighted tokens."""
    return num_prompt_tokens * PROMPT_TOKEN_COST + num_tokens * OUTPUT_TOKEN_COST


class Lengths:
    """How long outputs became that ended by themselves: of each tenant, and of all."""

    def __init__(self) -> None:
        self._of_tenants: dict[str, tuple[float, float]] = {}
        self._of_all = (0.0, 0.0)

    def observe(self, tenant: str, num_tokens: int) -> None:
        """An output has finished (stop or length) with so many tokens."""
        self._of_all = _grown(self._of_all, num_tokens)
        self._of_tenants[tenant] = _grown(self._of_tenants.get(tenant, (0.0, 0.0)), num_tokens)

    def estimate(self, tenant: str, max_tokens: int) -> float:
        """Return how long an output will become, in tokens: from 1 to ``max_tokens``.

        The mean of the tenant's, of all where it has too few, the bound where all have.
        """
        for count, total in (self._of_tenants.get(tenant, (0.0, 0.0)), self._of_all):
            if count >= _MIN_FINISHED:
                return max(1.0, min(float(max_tokens), total / count))
        return max(1.0, float(max_tokens))


def _grown(known: tuple[float, float], num_tokens: int) -> tuple[float, float]:
    count, total = known[0] + 1, known[1] + num_tokens
    return (count / 2, total / 2) if count >= _MAX_FINISHED else (count, total)


class TokenCounters:
    """Virtual token counters: what each tenant has had, over its weight.

    Start-time fair queueing (Goyal et al. 1996) whose service is the token cost of VTC
    (Sheng et al. 2024). A job's rank is its start tag. What an output is expected to cost
    is reserved at submit, so that the jobs of a flood stand behind each other; what it costs
    beyond that is charged as its steps are executed, what it does not use is returned when
    it ends. The virtual time lifts the counters of the idle, who save no credit up. It is the
    highest tag that was taken, and each claim moves it on by a 64th of what the job reserved:
    else those who never came before could go before a higher tag for ever. So after at most
    64 * D / r claims nobody who comes goes before a job whose tag is D above the virtual
    time, where r is the smallest reservation.
    """

    def __init__(self) -> None:
        self.counters: dict[str, float] = {}
        self.virtual_time = 0.0

    def submit(self, tenant: str, weight: float, expected: float) -> float:
        """Reserve a job's expected cost (of all its outputs); return the job's rank."""
        start = max(self.counters.get(tenant, 0.0), self.virtual_time)
        self.counters[tenant] = start + expected / weight
        return start

    def claimed(self, rank: float, reserved: float) -> None:
        """A job of that rank was taken; ``reserved``: for its open outputs, over its weight."""
        self.virtual_time = max(self.virtual_time + reserved / _NUM_PACED, rank)

    def executed(
        self, tenant: str, weight: float, expected: float, before: float, after: float
    ) -> None:
        """A step took one output's cost from ``before`` to ``after``; it is expected to be so."""
        self._charge(tenant, max(0.0, after - max(before, expected)) / weight)

    def ended(self, tenant: str, weight: float, expected: float, cost: float) -> None:
        """One output has ended, having cost so much in all."""
        self._charge(tenant, -(max(0.0, expected - cost) / weight))

    def _charge(self, tenant: str, amount: float) -> None:
        if amount:
            self.counters[tenant] = self.counters.get(tenant, 0.0) + amount
