"""A device that is behind its host: steps are computed as they are launched, and end later."""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING

from worker_svc.step.timer import HostTimer

if TYPE_CHECKING:
    import pytest

# Nothing waits for so long but a test that has failed.
GIVE_UP_S = 60.0


class LateDevice:
    """Counts the launched steps; each ends once ``let`` allows for it, in their order.

    Attributes:
        num_launched: steps launched since it was put in.
        num_ended: of these, whose end the host has waited for.
        most_flying: launched and not ended, at most, at any time.
    """

    def __init__(self) -> None:
        self.num_launched = self.num_ended = self.most_flying = 0
        self._num_allowed = 0.0
        self._changed = threading.Condition()

    def put_in(self, patch: pytest.MonkeyPatch) -> None:
        """Let executors launch on it from now on."""
        patch.setattr("worker_svc.step.executor.start_timer", lambda _: _LateTimer(self))

    @property
    def num_flying(self) -> int:
        """Steps that are launched and have not ended."""
        return self.num_launched - self.num_ended

    def let(self, count: float) -> None:
        """From now on so many steps may end; with 0 the device stands still."""
        with self._changed:
            self._num_allowed = self.num_ended + count
            self._changed.notify_all()

    def let_all(self) -> None:
        """Every step ends as soon as it is waited for."""
        self.let(math.inf)

    def note_launch(self) -> None:
        self.num_launched += 1
        self.most_flying = max(self.most_flying, self.num_flying)

    def end(self) -> None:
        with self._changed:
            may_end = self._changed.wait_for(
                lambda: self.num_ended < self._num_allowed, timeout=GIVE_UP_S
            )
            assert may_end
            self.num_ended += 1


class _LateTimer(HostTimer):
    def __init__(self, device: LateDevice) -> None:
        super().__init__()
        self._late = device

    def stop(self) -> None:
        super().stop()
        self._late.note_launch()

    def is_done(self) -> bool:
        return False

    def wait(self) -> int:
        self._late.end()
        return super().wait()
