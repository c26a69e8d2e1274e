"""One run: a service under load, its faults, and what each of them concerned."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import replace
from time import monotonic

from stepserve.protocol.errors import StepserveError
from stepserve_bench.chaos.fleet import Fleet
from stepserve_bench.chaos.kinds import KINDS
from stepserve_bench.chaos.ledger import Ledger
from stepserve_bench.chaos.load import Load
from stepserve_bench.chaos.progress import Progress
from stepserve_bench.chaos.schedule import Fault
from stepserve_bench.chaos.stalls import Struck
from stepserve_bench.chaos.strikes import Claims, Victims, choose, strike

# Streams flow before the first fault, and after the last one.
CALM_S = 3.0
WATCH_INTERVAL_S = 0.1
# After the last fault every job has so long to end: who has not then is lost.
PATIENCE_S = 120.0


class Run:
    """Strikes a fleet under load; ``struck`` and the ledger say what came of it."""

    def __init__(self, fleet: Fleet, ledger: Ledger, progress: Progress) -> None:
        self.struck: list[Struck] = []
        self._fleet = fleet
        self._ledger = ledger
        self._progress = progress

    async def disturb(self, load: Load, num_streams: int, faults: Sequence[Fault]) -> None:
        """Load the service, strike as planned, and let every job end.

        Raises StepserveError where a fault could not be done.
        """
        loading = asyncio.create_task(load.run(num_streams))
        watching = asyncio.create_task(self._watch())
        try:
            await asyncio.sleep(CALM_S)
            begin_s = monotonic()
            async with asyncio.TaskGroup() as group:
                for fault in faults:
                    await asyncio.sleep(begin_s + fault.at_s - monotonic())
                    striking, struck_s = group.create_task(self._strike(fault)), monotonic()
                    if KINDS[fault.kind].part == "all":
                        await striking
                        begin_s += monotonic() - struck_s
            await asyncio.sleep(CALM_S)
            load.end()
            self._progress.say("every fault is over; the jobs that run go on to their ends")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE_S):
                    await asyncio.shield(loading)
        except* StepserveError as group_error:
            raise group_error.exceptions[0] from None
        finally:
            for task in (watching, loading):
                task.cancel()
            await asyncio.gather(watching, loading, return_exceptions=True)

    async def _strike(self, fault: Fault) -> None:
        fleet, ledger = self._fleet, self._ledger
        claims = await fleet.claims()
        victims = await choose(fleet, fault, claims)
        job_ids = concerned(KINDS[fault.kind].part, victims, claims)
        if job_ids is None:
            job_ids = frozenset(i for i, entry in ledger.entries.items() if not entry.has_ended)
        struck = Struck(fault.kind, monotonic(), victims.names, job_ids)
        self.struck.append(struck)
        self._progress.fault(struck, ledger)
        problems = await strike(fleet, fault, victims)
        ledger.problems += problems
        self.struck[self.struck.index(struck)] = replace(struck, healed_s=monotonic())

    async def _watch(self) -> None:
        """Start again who ended without having been struck, and note it."""
        while True:
            await asyncio.sleep(WATCH_INTERVAL_S)
            for member in self._fleet.unexpected():
                status = member.child.process.returncode
                if not self._fleet.is_poisoned(status):
                    what = f"ended by itself: {member.name}, status {status}"
                    self._ledger.problems.append(what)
                member.is_up = False
                self._ledger.problems += filter(None, [await member.revive()])


def concerned(part: str, victims: Victims, claims: Claims) -> frozenset[str] | None:
    """Return the jobs that a fault concerns by who holds them; None: all that go on."""
    if part in ("client", "redis", "pair", "job", "all"):
        return None
    workers = {member.name for member in victims.workers}
    schedulers = {member.name for member in victims.schedulers}
    return frozenset().union(
        *(
            job_ids
            for (worker, scheduler), job_ids in claims.items()
            if worker in workers or scheduler in schedulers
        )
    )
