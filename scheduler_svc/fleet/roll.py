"""Tells the registry what we know of workers: those that we drive, and those that answer us."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from scheduler_svc.fleet.assignment import Assignment, Held
from scheduler_svc.queue import Registry, Sighting
from stepserve.protocol.errors import Unavailable
from stepserve.protocol.step import WorkerInfo
from stepserve.protocol.worker_status import WorkerStatus

log = logging.getLogger(__name__)

TELL_INTERVAL_S = 2.0
MAX_NOTE_CHARS = 300
_OF_WORKER = {f.name for f in fields(WorkerInfo)} & {f.name for f in fields(WorkerStatus)}


class Roll:
    """Calls the roll while it runs."""

    def __init__(
        self, registry: Registry, holder: str, assignments: Mapping[str, Assignment]
    ) -> None:
        self._registry = registry
        self._holder = holder
        self._assignments = assignments

    async def run(self) -> None:
        """Tell until cancelled; nothing depends on it, so whatever goes wrong is tried again."""
        said = ""
        while True:
            try:
                now_s = time.monotonic()
                await self._registry.tell(
                    self._holder, sightings(self._assignments, self._holder, now_s)
                )
                said = ""
            except Unavailable:
                pass  # which others say
            except Exception as error:
                if str(error) != said:
                    log.exception("the registry of workers can't be written")
                said = str(error)
            await asyncio.sleep(TELL_INTERVAL_S)


def sightings(
    assignments: Mapping[str, Assignment], holder: str, now_s: float
) -> Sequence[Sighting]:
    """Return what is known of each worker; one at several addresses is told of at the first.

    Where it is driven at another one, that is where it is told of. ``now_s`` is monotonic.
    """
    first: dict[str, Sighting] = {}
    by_use = sorted(assignments.items(), key=lambda pair: (pair[1].held is None, pair[0]))
    for address, assignment in by_use:
        if (info := assignment.info) is not None:
            age_s = 0.0 if assignment.held is not None else now_s - assignment.answered_s
            status = _status(address, info, assignment, holder)
            first.setdefault(info.incarnation, Sighting(status, age_s))
    return list(first.values())


def _status(address: str, info: WorkerInfo, assignment: Assignment, holder: str) -> WorkerStatus:
    held = assignment.held
    told = {name: getattr(info, name) for name in _OF_WORKER}
    note = "" if held is not None else assignment.problem[:MAX_NOTE_CHARS]
    driving = {} if held is None else {"driver": holder, **_driving(held)}
    return WorkerStatus(worker_id=address, note=note, **told, **driving)


def _driving(held: Held) -> dict[str, Any]:
    core, step_us = held.meter.core, sorted(held.meter.step_us)
    told: dict[str, Any] = {"driven_since_s": held.epoch / 1e6}  # an epoch is Redis's time
    if core is not None:
        told |= {
            "num_running": core.num_running,
            "num_waiting": core.num_waiting,
            "num_free_blocks": core.num_free_blocks,
        }
    if step_us:
        told |= {
            "num_recent_steps": len(step_us),
            "step_p50_s": _quantile(step_us, 0.5) / 1e6,
            "step_p99_s": _quantile(step_us, 0.99) / 1e6,
        }
    return told


def _quantile(ascending: Sequence[int], share: float) -> int:
    """Return the least of the values that so large a share does not exceed."""
    return ascending[max(0, math.ceil(share * len(ascending)) - 1)]
