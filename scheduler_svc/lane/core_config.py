"""The limits of a lane's core."""

from __future__ import annotations

from scheduler_svc.core.config import CoreConfig
from scheduler_svc.queue import Lease
from scheduler_svc.settings import PlanningSettings
from stepserve.protocol.step import HelloReply, WorkerInfo

# A lane whose commits lag behind pauses at this share of the reports a worker keeps.
KEPT_REPORTS_SHARE = 0.75
# At most, where a worker would launch further ahead.
MAX_STEPS_IN_FLIGHT = 8


def core_config(lease: Lease, reply: HelloReply, settings: PlanningSettings) -> CoreConfig:
    """Return the core's limits: the settings', within what the worker can do.

    As many steps are in flight as the settings say, and one more for each further stage of the
    worker: so many are ahead of what the first one has to wait for.
    """
    info = reply.info
    return CoreConfig(
        epoch=lease.epoch,
        incarnation=info.incarnation,
        first_step=reply.last_step + 1,
        num_blocks=info.num_blocks,
        block_size=info.block_size,
        max_context=info.max_context,
        max_batch_size=min(settings.max_batch_size, info.max_batch_size),
        max_step_tokens=min(settings.max_step_tokens, info.max_step_tokens),
        max_steps_in_flight=_steps_in_flight(settings, info),
        max_uncommitted_steps=max(1, int(info.max_kept_reports * KEPT_REPORTS_SHARE)),
        batching=settings.batching,
        prefix_caching=settings.prefix_caching,
        enable_preemption=settings.enable_preemption,
        preemption_margin=settings.preemption_margin,
        target_step_us=int(settings.target_step_ms * 1000),
        num_stages=info.num_stages,
        target_batch_size=settings.target_batch_size,
    )


def _steps_in_flight(settings: PlanningSettings, info: WorkerInfo) -> int:
    """One is computed and the others are on their way, as far ahead as the worker launches."""
    chosen = settings.max_steps_in_flight
    wanted = min(max(2, info.launch_ahead + 1), MAX_STEPS_IN_FLIGHT)
    return (chosen or wanted) + info.num_stages - 1
