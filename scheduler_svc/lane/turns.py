"""Who is told of a lane's turns."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Protocol

from scheduler_svc.core.events import Effect, Event
from scheduler_svc.core.scheduler import Core

log = logging.getLogger(__name__)


class TurnObserver(Protocol):
    """Is told of every turn of a lane's core, from the first on.

    Also of one that raised, with no effects, and of the last, in which the jobs are given
    back: what it is told last is what there is to be explained. One that raises is told of
    no more turns; the lane goes on.
    """

    def observe(self, events: Sequence[Event], effects: Sequence[Effect], core: Core, /) -> None:
        """``effects`` are what ``core.handle(events)`` returned; they are performed already."""


class Observers:
    """Tells each of them in turn. What goes wrong in one is no other's trouble."""

    def __init__(self, observers: Iterable[TurnObserver]) -> None:
        self._observers = tuple(observers)

    def observe(self, events: Sequence[Event], effects: Sequence[Effect], core: Core, /) -> None:
        """Tell all that are left of a turn. Raises nothing."""
        for observer in self._observers:
            try:
                observer.observe(events, effects, core)
            except Exception as error:
                self._observers = tuple(o for o in self._observers if o is not observer)
                name = type(observer).__name__
                log.error("%s failed and is told of no more turns", name, exc_info=error)
