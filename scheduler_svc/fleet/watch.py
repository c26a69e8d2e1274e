"""One model's fleet as a scheduler sees it: who lives, who drives what, and what is ours."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping

from scheduler_svc.fleet.assignment import Assignment
from scheduler_svc.fleet.owners import assign_workers
from scheduler_svc.lane.replica import Replica
from scheduler_svc.queue import Fleet
from stepserve.protocol.errors import Unavailable

# How often to look who lives and who drives what.
LOOK_INTERVAL_S, HAND_OVER_WAIT_S = 0.25, 2.0
# A look that took longer tells of a time in which leases could not be renewed.
MAX_LOOK_S = 0.5
# A worker is handed over only to somebody who has been there for so long.
SETTLE_S = 2.0


class FleetWatch:
    """Says in Redis that we live and what we reach of a model, and deals its workers out.

    Each replica takes and hands over what ``assign_workers`` tells all of them alike. Leases see
    to it that they need not agree at every moment. ``assignments`` are by address, of workers of
    any model.
    """

    def __init__(self, replica: Replica, assignments: Mapping[str, Assignment]) -> None:
        self._replica = replica
        self._assignments = assignments
        self._is_stopping = False
        self._attending = asyncio.Lock()
        self._news = asyncio.Event()

    async def run(self) -> None:
        """Look until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch())
            group.create_task(self._hear_hand_overs())

    def look_now(self) -> None:
        """Something has changed."""
        self._news.set()

    async def depart(self) -> None:
        """Say that we take no more workers, and tell no task any more to hold one."""
        self._is_stopping = True
        async with self._attending:
            with contextlib.suppress(Unavailable):
                await self._replica.queue.depart(self._replica.holder)

    async def _watch(self) -> None:
        """Look at the fleet again and again, and tell each task whether to hold its worker."""
        ttl_s = self._replica.settings.lease_ttl_s
        trusted_from_s = 0.0
        while not self._is_stopping:
            self._news.clear()
            asked_s = time.monotonic()
            fleet = await self._look()
            if fleet is None or time.monotonic() - asked_s > MAX_LOOK_S:
                # Redis was away: who could not renew a lease meanwhile comes first.
                trusted_from_s = time.monotonic() + ttl_s / 2
            elif time.monotonic() > trusted_from_s:
                self._assign(fleet)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_INTERVAL_S):
                    await self._news.wait()

    async def _hear_hand_overs(self) -> None:
        """Look at once when somebody leaves a worker: its sequences stand still until then."""
        queue = self._replica.queue
        while not self._is_stopping:
            seen = queue.num_handed_over
            await queue.wait_for_hand_over(seen, HAND_OVER_WAIT_S)
            if queue.num_handed_over != seen:
                self.look_now()

    async def _look(self) -> Fleet | None:
        """Say what we reach and learn of the others; None while Redis is away, or at the end."""
        ttl_ms = int(self._replica.settings.lease_ttl_s * 1000)
        async with self._attending:
            if self._is_stopping:
                return None
            with contextlib.suppress(Unavailable):
                return await self._replica.queue.attend(self._replica.holder, ttl_ms, self._reach())
            return None

    def _reach(self) -> list[str]:
        """The workers that answer; one that does at several addresses counts at the first."""
        first: dict[str, str] = {}
        for address, assignment in sorted(self._ours().items()):
            if assignment.incarnation:
                first.setdefault(assignment.incarnation, address)
        return list(first.values())

    def _assign(self, fleet: Fleet) -> None:
        us, owners = self._replica.holder, assign_workers(fleet)
        for address, assignment in self._ours().items():
            if owners.get(address) == us:
                assignment.keep(may_take=fleet.holders.get(address, us) == us)
            elif fleet.holders.get(address) == us:
                assignment.give_up_in(SETTLE_S)
            else:
                assignment.leave()

    def _ours(self) -> dict[str, Assignment]:
        """Those whose worker serves the model."""
        model = self._replica.card.name
        return {a: each for a, each in self._assignments.items() if each.model == model}
