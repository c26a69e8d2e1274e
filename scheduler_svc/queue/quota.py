"""What an API key may have of one queue, over all replicas: rates, and jobs at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from stepserve.protocol.errors import Exhausted

_MINUTE_S = 60.0
# A bound of a job that is stored again: it counts, and nothing follows of how much there may be.
BOUND_NOT_KNOWN = -1


@dataclass(frozen=True, slots=True)
class Quota:
    """Bounds of the key ``key_id``; 0: none. ``weight`` 0: as the order says.

    A rate is a bucket that a minute fills: so much may come at once. A job takes its prompt and
    what its outputs are expected to become, and gives back, or takes besides, what they became
    less or more. Who asks for more than a whole bucket waits until it is full.
    """

    key_id: str
    weight: float = 0.0
    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    max_jobs: int = 0


@dataclass(frozen=True, slots=True)
class Standing:
    """What is left of a quota's rates; below 0 where more was used than expected."""

    quota: Quota
    requests: float
    tokens: float

    def rates(self) -> Iterator[tuple[str, int, float, float]]:
        """Yield of each rate with a bound its name, the bound, what is left, and until when.

        That is in how many seconds all of it is there again.
        """
        quota = self.quota
        for name, most, left in (
            ("requests", quota.requests_per_minute, self.requests),
            ("tokens", quota.tokens_per_minute, self.tokens),
        ):
            if most:
                yield name, most, left, max(0.0, (most - left) / most * _MINUTE_S)


class QuotaExceeded(Exhausted):
    """A key's bound was reached. ``standing`` is None where nothing is known of its rates."""

    def __init__(self, problem: str, retry_after_ms: int, standing: Standing | None) -> None:
        super().__init__(problem, retry_after_ms)
        self.standing = standing


@dataclass(slots=True)
class Account:
    """The quota that submits count against, and how it stood at the last of them.

    ``priority`` is what a job has that asks for some; it raises Forbidden for too much.
    """

    quota: Quota
    priority: Callable[[int], int]
    standing: Standing | None = None


_BOUNDS = ("requests", "tokens", "jobs")


def refusal(quota: Quota, which: int, wait_s: float, standing: Standing) -> QuotaExceeded:
    """Return the error of the bound number ``which``, which lasts for ``wait_s`` at least."""
    most = (quota.requests_per_minute, quota.tokens_per_minute, quota.max_jobs)[which]
    unit = " at once" if which == _BOUNDS.index("jobs") else " a minute"
    problem = f"the API key has reached its bound of {most} {_BOUNDS[which]}{unit}"
    return QuotaExceeded(problem, max(1, math.ceil(wait_s * 1000)), standing)
