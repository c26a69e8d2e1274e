"""What a connection's end means to the request that is answered over it: that it stops."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

_KEY = "stepserve.loss"


class Loss:
    """Cancels the task that answers a request as soon as nobody would hear the answer.

    A connection has one, since it answers one request at a time. ASGI tells a loss only to who
    waits for a message, which would take a second task for each stream.
    """

    def __init__(self) -> None:
        self.has_happened = False
        self._task: asyncio.Task[Any] | None = None

    @contextmanager
    def cancels_us(self) -> Iterator[None]:
        """Let the current task be cancelled by it, which ends the block and raises nothing."""
        self._task = task = asyncio.current_task()
        try:
            if self.has_happened:
                raise asyncio.CancelledError
            yield
        except asyncio.CancelledError:
            if not self.has_happened:
                raise
            if task is not None:
                task.uncancel()
        finally:
            self._task = None

    def happen(self) -> None:
        """Say that the connection is gone."""
        self.has_happened = True
        if self._task is not None:
            self._task.cancel()


def tell_of(loss: Loss, scope: MutableMapping[str, Any]) -> None:
    """Let a request know of its connection's."""
    scope[_KEY] = loss


def loss_of(scope: MutableMapping[str, Any]) -> Loss:
    """Return a request's: one that never happens where the server tells of none."""
    loss: Loss = scope.setdefault(_KEY, Loss())
    return loss
