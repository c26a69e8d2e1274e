"""The step numbers of one incarnation: planned, reported, committed."""

from __future__ import annotations

from scheduler_svc.core.config import CoreConfig
from scheduler_svc.core.errors import ProtocolError


class Flight:
    """Three numbers that only grow: ``committed`` <= ``reported`` <= ``planned``.

    Steps are reported in order, so those in flight are the ones between the last two.
    """

    def __init__(self, config: CoreConfig) -> None:
        self._config = config
        self.planned = self.reported = self.committed = config.first_step - 1

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

    def report(self, step: int) -> bool:
        """Take the report of ``step``; False where it came before. Raises ProtocolError."""
        if step <= self.reported:
            return False
        if step != self.reported + 1 or step > self.planned:
            raise ProtocolError(
                f"step {step} is reported, in flight are {self.reported + 1} to {self.planned}"
            )
        self.reported = step
        return True

    def commit(self, step: int) -> None:
        """Everything up to ``step`` is in Redis. Raises ProtocolError where it is ahead."""
        if step > self.reported:
            raise ProtocolError(f"step {step} is committed, only {self.reported} is reported")
        self.committed = max(self.committed, step)

    def abandon(self) -> None:
        """Nothing more will be reported; what still arrives is late."""
        self.reported = self.planned

    def check(self) -> None:
        """Assert the order of the three, and both limits."""
        assert self.committed <= self.reported <= self.planned, "steps out of order"
        assert self.num_in_flight <= self._config.max_steps_in_flight, "too deep"
        assert self.planned - self.committed <= self._config.max_uncommitted_steps, "too far ahead"
