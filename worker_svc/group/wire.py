"""Tensors from rank to rank over ``torch.distributed``, whose shapes both sides know."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, Protocol

import torch.distributed as dist
from torch import Tensor


class RankGone(Exception):
    """Another rank has ended."""


# Sent to each rank and not known to have arrived; one that is so far behind is waited for.
MAX_SENDS = 8


class Wire(Protocol):
    """Messages of one kind, between one thread of each rank; of each rank they come in order."""

    def send(self, message: Tensor, rank: int) -> None:
        """Begin to send; ``message`` must not be changed any more."""

    def receive(self, message: Tensor, rank: int) -> None:
        """Wait for the next message of a rank, of this shape and dtype, and copy it there.

        On a GPU only its stream waits. Raises RankGone.
        """

    def flush(self) -> None:
        """Wait until everything is sent."""


class GroupWire:
    """A ``Wire`` that is a process group of its own, of so many ranks."""

    def __init__(self, group: Any, num_ranks: int) -> None:
        self._group = group
        self._max_sends = MAX_SENDS * (num_ranks - 1)
        # A message must live until it is sent.
        self._sent: deque[tuple[Any, Tensor]] = deque()

    def send(self, message: Tensor, rank: int) -> None:
        self._sent.append((dist.isend(message, rank, self._group), message))
        if len(self._sent) > self._max_sends:
            self._wait_for_oldest()

    def receive(self, message: Tensor, rank: int) -> None:
        try:
            dist.recv(message, rank, self._group)
        except RuntimeError as error:
            raise RankGone(f"rank {rank} has ended") from error

    def flush(self) -> None:
        while self._sent:
            self._wait_for_oldest()

    def _wait_for_oldest(self) -> None:
        work, _ = self._sent.popleft()
        work.wait()


@dataclass(frozen=True, slots=True)
class Wires:
    """A rank's wires, one for each kind of message, so that none waits for another kind.

    Attributes:
        turns: what rank 0 tells the others.
        states: hidden states from stage to stage.
        choices: what the last stage chose.
    """

    turns: Wire
    states: Wire
    choices: Wire
