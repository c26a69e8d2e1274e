"""This scheduler as its lanes see it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from scheduler_svc.lane.edge_room import EdgeRoom
from scheduler_svc.live.broadcast import Broadcast
from scheduler_svc.metrics.turns import Turns
from scheduler_svc.queue import JobQueue
from scheduler_svc.settings import SchedulerSettings
from scheduler_svc.text.model_card import ModelCard

if TYPE_CHECKING:
    from scheduler_svc.spans.tracing import Tracing


@dataclass(frozen=True, slots=True)
class Replica:
    """One of the schedulers of a model: its queue, card, settings, and the name it goes by.

    ``turns`` counts what its lanes do, ``broadcast`` shows it to who looks, and ``tracing``, where
    it is on, tells of each job. ``edge_room`` is one of all replicas of a process.
    """

    queue: JobQueue
    card: ModelCard
    settings: SchedulerSettings
    holder: str
    turns: Turns = field(default_factory=Turns)
    broadcast: Broadcast = field(default_factory=Broadcast)
    tracing: Tracing | None = None
    edge_room: EdgeRoom = field(default_factory=EdgeRoom)
