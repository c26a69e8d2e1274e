"""What a scheduler tells of one of its models."""

from __future__ import annotations

from scheduler_svc.metrics.adapters import Adapters
from scheduler_svc.metrics.queue_meter import QueueMeter
from scheduler_svc.metrics.tenants import Tenants
from scheduler_svc.metrics.turns import Turns
from scheduler_svc.queue import JobQueue
from scheduler_svc.settings import SchedulerSettings
from stepserve.metrics.status import Status


class SchedulerMetrics:
    """What counts: ``turns`` is for the lanes, and ``queue`` must run. ``status`` tells it."""

    def __init__(
        self, queue: JobQueue, model: str, settings: SchedulerSettings, status: Status
    ) -> None:
        self.turns = Turns()
        weights = settings.order.tenant_weights
        tenants = Tenants(settings.metrics_tenants, weights)
        has_lanes = settings.roles in ("all", "lane")
        self.queue = QueueMeter(queue, self.turns, tenants, has_lanes=has_lanes)
        status.metrics.add(self.queue, model)
        status.metrics.add(Adapters(), model)
        status.vitals.require(ready=lambda: self.queue.problem)
        if has_lanes:
            status.metrics.add(self.turns, model)
