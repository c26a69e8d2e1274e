"""This scheduler as its lanes see it."""

from __future__ import annotations

from dataclasses import dataclass, field

from scheduler_svc.metrics.turns import Turns
from scheduler_svc.queue import JobQueue
from scheduler_svc.settings import SchedulerSettings
from scheduler_svc.text.model_card import ModelCard


@dataclass(frozen=True, slots=True)
class Replica:
    """One of the schedulers of a model: its queue, card, settings, and the name it goes by.

    ``turns`` counts what its lanes do.
    """

    queue: JobQueue
    card: ModelCard
    settings: SchedulerSettings
    holder: str
    turns: Turns = field(default_factory=Turns)
