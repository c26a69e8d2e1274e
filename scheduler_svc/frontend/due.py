"""Who is looked at next, and when: some at once, the others together."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Due(Generic[Item]):
    """What was called for and not taken yet. Times are of one monotonic clock, in seconds.

    What is called for at once can be taken at once. The rest waits until ``window_s`` have
    passed since the last window began, so that what comes meanwhile is one with it; after a
    longer silence it waits for nothing.
    """

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._window_end_s = -math.inf
        self._at_once: set[Item] = set()
        self._together: set[Item] = set()

    def add(self, items: Collection[Item], at_once: bool) -> bool:
        """Call for them; a second call can only make it sooner.

        Returns whether nothing was to be done as soon as these are.
        """
        wanted = self._at_once if at_once else self._together
        was_idle = not (wanted or self._at_once)
        wanted.update(items)
        return was_idle and bool(items)

    def discard(self, item: Item) -> None:
        """Take the call back."""
        self._at_once.discard(item)
        self._together.discard(item)

    def wait_s(self, now_s: float) -> float:
        """Return how long nothing is due, if nothing else is called for; may be infinite."""
        if self._at_once:
            return 0.0
        return max(0.0, self._window_end_s - now_s) if self._together else math.inf

    def take(self, now_s: float) -> tuple[set[Item], set[Item] | None]:
        """Return what is due at once, and what else is; None where that still waits.

        Where it does not, a window is to begin.
        """
        at_once, self._at_once = self._at_once, set()
        self._together -= at_once
        if now_s < self._window_end_s:
            return at_once, None
        together, self._together = self._together, set()
        return at_once, together

    def begin_window(self, now_s: float, spent_s: float) -> None:
        """From now on what is not called for at once waits.

        ``spent_s`` of a processor's time went into what is done now. It shall not be more than
        a third of all, so that there is time for other things: the window may be longer.
        """
        if self._window_s:
            self._window_end_s = now_s + max(self._window_s, 2 * spent_s)
