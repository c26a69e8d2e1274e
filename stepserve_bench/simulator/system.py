"""What is simulated: the scheduler's settings and the worker's limits, as one value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from scheduler_svc.core.config import CoreConfig
from scheduler_svc.order import Policy
from stepserve.protocol.choices import Attention, Batching
from stepserve_bench.simulator.stages import Link

# As long as a worker keeps 64 reports, a lane plans so many steps ahead of the commits.
_MAX_UNCOMMITTED_STEPS = 48


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """The settings of ``stepserve up`` that a simulation can tell apart; defaults alike."""

    batching: Batching = "continuous"
    attention: Attention = "paged"
    policy: Policy = "fcfs"
    num_workers: int = 1
    max_batch_size: int = 64
    max_step_tokens: int = 2048
    max_steps_in_flight: int = 2
    num_stages: int = 1
    target_batch_size: int | None = None
    stage_link: Link = Link()  # noqa: RUF009
    num_blocks: int = 8192
    block_size: int = 16
    max_context: int = 4096
    prefix_caching: bool = True
    enable_preemption: bool = True
    preemption_margin_s: float = 10.0
    target_step_us: int = 0
    wait_weight: float = 1.0
    remaining_weight: float = 0.5
    priority_weight: float = 2.0
    tenant_weights: Mapping[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What tells systems apart at a glance."""
        stages = f"+{self.num_stages} stages" if self.num_stages > 1 else ""
        return f"{self.batching}+{self.attention}{stages}"

    @property
    def alone(self) -> System:
        """The same with one worker."""
        return replace(self, num_workers=1)

    def core_config(self) -> CoreConfig:
        """Return what one lane's core is told. Raises ValueError as that does."""
        # As in the scheduler's settings: only priorities make a job displace another.
        displaces = self.enable_preemption and self.policy == "priority"
        return CoreConfig(
            epoch=1,
            incarnation="0" * 32,
            first_step=1,
            num_blocks=self.num_blocks,
            block_size=self.block_size,
            max_context=min(self.max_context, self.num_blocks * self.block_size),
            max_batch_size=self.max_batch_size,
            max_step_tokens=self.max_step_tokens,
            # As the lane's (``scheduler_svc.lane.core_config``).
            max_steps_in_flight=self.max_steps_in_flight + self.num_stages - 1,
            num_stages=self.num_stages,
            target_batch_size=self.target_batch_size,
            max_uncommitted_steps=_MAX_UNCOMMITTED_STEPS,
            batching=self.batching,
            prefix_caching=self.prefix_caching,
            enable_preemption=self.enable_preemption,
            preemption_margin=self.preemption_margin_s if displaces else math.inf,
            target_step_us=self.target_step_us,
        )
