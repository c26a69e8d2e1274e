"""Who is told of a lane's turns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from scheduler_svc.core.events import Effect, Event
from scheduler_svc.core.scheduler import Core


class TurnObserver(Protocol):
    """Is told of every turn of a lane's core, from the first on.

    Also of one that raised, with no effects, and of the last, in which the jobs are given
    back: what it is told last is what there is to be explained.
    """

    def observe(self, events: Sequence[Event], effects: Sequence[Effect], core: Core, /) -> None:
        """``effects`` are what ``core.handle(events)`` returned; none is performed yet."""
