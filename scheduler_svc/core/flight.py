"""The step numbers of one incarnation: planned, reported, committed."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass

from scheduler_svc.core.config import CoreConfig
from scheduler_svc.core.errors import ProtocolError
from scheduler_svc.core.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Planned:
    """What must be remembered of a step until it is reported.

    ``fills`` are the sequences whose row completes a block, and how many full ones each has
    then.
    """

    num_tokens: int
    fills: Collection[tuple[Sequence, int]]


class Flight:
    """Three numbers that only grow: ``committed`` <= ``reported`` <= ``planned``.

    Steps are reported in order, so those in flight are the ones between the last two.
    """

    def __init__(self, config: CoreConfig) -> None:
        self._config = config
        self.planned = self.reported = self.committed = config.first_step - 1
        self._plans: deque[Planned] = deque()
        # Steps up to this one were planned by another.
        self._last_adopted = self.planned

    @property
    def num_in_flight(self) -> int:
        return self.planned - self.reported

    @property
    def has_room(self) -> bool:
        """Whether one more step may be sent, and the worker can keep its report."""
        return (
            self.num_in_flight < self._config.max_steps_in_flight
            and self.planned - self.committed < self._config.max_uncommitted_steps
        )

    def adopt(self, num_reports: int, last: Planned) -> None:
        """The last ``num_reports`` steps, 1 at least, are to be reported to us; ``last`` ends them.

        Another planned them, and the worker keeps their reports: there may be any number.
        """
        assert not self._plans, "steps are in flight"
        self.reported = self.committed = self.planned - num_reports
        self._plans.extend(Planned(0, ()) for _ in range(num_reports - 1))
        self._plans.append(last)

    def plan(self, planned: Planned) -> None:
        """One more step is on its way."""
        self.planned += 1
        self._plans.append(planned)

    def report(self, step: int) -> Planned | None:
        """Take the report of ``step``; None where it came before. Raises ProtocolError."""
        if step <= self.reported:
            return None
        if step != self.reported + 1 or step > self.planned:
            raise ProtocolError(
                f"step {step} is reported, in flight are {self.reported + 1} to {self.planned}"
            )
        self.reported = step
        return self._plans.popleft()

    def commit(self, step: int) -> None:
        """Everything up to ``step`` is in Redis. Raises ProtocolError where it is ahead."""
        if step > self.reported:
            raise ProtocolError(f"step {step} is committed, only {self.reported} is reported")
        self.committed = max(self.committed, step)

    def abandon(self) -> None:
        """Nothing more will be reported; what still arrives is late."""
        self.reported = self.planned
        self._plans.clear()

    def check(self) -> None:
        """Assert the order of the three, and both limits."""
        assert self.committed <= self.reported <= self.planned, "steps out of order"
        assert len(self._plans) == self.num_in_flight, "a step that nobody planned"
        ours, config = self._last_adopted, self._config
        assert self.planned - max(self.reported, ours) <= config.max_steps_in_flight, "too deep"
        num_uncommitted = self.planned - max(self.committed, ours)
        assert num_uncommitted <= config.max_uncommitted_steps, "too far ahead"
