"""The places of a padded static batch, as the worker keeps them (``worker_svc.core.residents``)."""

from __future__ import annotations


class Rectangle:
    """As high as the most that lived since nobody did; a latecomer takes a dead row's place."""

    __slots__ = ("_most_live",)

    def __init__(self) -> None:
        self._most_live = 0

    def num_dead(self, num_live: int) -> int:
        """Return the rows for nobody in a step that so many live in, its newcomers too."""
        self._most_live = max(self._most_live, num_live)
        return self._most_live - num_live

    def left(self, num_live: int) -> None:
        """Somebody left, and so many live on."""
        if not num_live:
            self._most_live = 0
