"""What a core must know about its worker, and the limits it plans within."""

from __future__ import annotations

import math
from dataclasses import dataclass

from stepserve.protocol.choices import Batching

DEFAULT_TARGET = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreConfig:
    """One core drives one incarnation under one epoch.

    ``first_step`` is the HelloReply's last step plus one. ``max_context`` counts the prompt
    and the output of one sequence; a worker's is never more than its cache holds, so that
    every sequence can run alone. ``max_uncommitted_steps`` is how many reports the worker
    keeps.

    ``batching`` "static" lets a batch in when the one before has left, "continuous" every
    step. ``target_step_us`` above 0 is how long a step should take: the token budget
    adapts to it. Without ``enable_preemption`` nobody is let in for whom there might be no
    blocks later. A waiting sequence whose rank is lower than that of a running one by more
    than ``preemption_margin`` takes its place.

    A worker of ``num_stages`` computes so many steps at a time, one in each; a step's sequences
    are a micro-batch, filled up to ``target_batch_size`` before there is another one; None: up to
    ``DEFAULT_TARGET``, and no more than its share where all places are taken.
    ``max_steps_in_flight`` counts those that the stages are at as well.

    Raises ValueError where no sequence could make progress within these limits.
    """

    epoch: int
    incarnation: str
    first_step: int
    num_blocks: int
    block_size: int
    max_context: int
    max_batch_size: int
    max_step_tokens: int
    max_steps_in_flight: int = 2
    max_uncommitted_steps: int
    batching: Batching = "continuous"
    prefix_caching: bool = True
    enable_preemption: bool = True
    preemption_margin: float = math.inf
    target_step_us: int = 0
    num_stages: int = 1
    target_batch_size: int | None = None

    def __post_init__(self) -> None:
        limits = ("num_blocks", "block_size", "max_context", "max_batch_size", "max_step_tokens")
        depths = ("max_steps_in_flight", "max_uncommitted_steps", "num_stages")
        for name in (*limits, *depths, "target_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.max_context > self.num_blocks * self.block_size:
            raise ValueError(
                f"max_context {self.max_context} is more than the cache holds: "
                f"{self.num_blocks} blocks of {self.block_size} tokens"
            )

    @property
    def num_places(self) -> int:
        """Sequences that may run at once: all that decode fit into one step, with no rota."""
        return min(self.max_batch_size, self.max_step_tokens)

    @property
    def target_rows(self) -> int:
        """What a micro-batch is filled to before there is another one."""
        if self.target_batch_size is not None:
            return self.target_batch_size
        return min(DEFAULT_TARGET, -(-self.num_places // self.num_stages))
