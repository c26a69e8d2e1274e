"""All lanes of one scheduler: finds the workers, and tries to hold each of them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Sequence

from scheduler_svc.fleet.assignment import Assignment
from scheduler_svc.fleet.hold import check_worker, hold, worker_stream
from scheduler_svc.fleet.owners import assign_workers
from scheduler_svc.lane.lane import LeaseLost
from scheduler_svc.lane.replica import Replica
from scheduler_svc.lane.worker_stream import WorkerGone
from scheduler_svc.queue import Fleet
from stepserve.protocol.errors import Unavailable

log = logging.getLogger(__name__)

DISCOVERY_INTERVAL_S = 2.0
RETRY_WAIT_S, MAX_RETRY_WAIT_S = 0.5, 30.0
# How often to look who lives and who drives what, and whether another's worker answers.
LOOK_INTERVAL_S, PROBE_INTERVAL_S = 0.25, 1.0
# A look that took longer tells of a time in which leases could not be renewed.
MAX_LOOK_S = 0.5
# A worker is handed over only to somebody who has been there for so long.
SETTLE_S = 2.0


async def resolve(names: Sequence[str]) -> set[str]:
    """Return every ``IP:PORT`` that the ``HOST:PORT`` names stand for now.

    A headless Service's name stands for all its pods, so workers may come and go. A name
    that does not resolve stands for none.
    """
    found: set[str] = set()
    for name in names:
        host, _, port = name.rpartition(":")
        loop = asyncio.get_running_loop()
        try:
            infos = await loop.getaddrinfo(
                host.strip("[]"), int(port), type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
            )
        except (OSError, UnicodeError):
            continue
        for *_, address in infos:
            ip = str(address[0])
            found.add(f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}")
    return found


class Lanes:
    """One task for each worker address that there is; each holds its worker while it should.

    Each replica says in Redis that it lives and what it reaches, and takes and hands over
    what ``assign_workers`` tells all of them alike. Leases see to it that they need not
    agree at every moment. ``names`` are HOST:PORT, each of any number of workers.
    """

    def __init__(self, replica: Replica, names: Sequence[str]) -> None:
        self._replica = replica
        self._names = names
        self._is_stopping = False
        self._known: set[str] = set()
        self._assignments: dict[str, Assignment] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._attending = asyncio.Lock()
        self._news = asyncio.Event()

    async def run(self) -> None:
        """Follow the workers until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._discover())
            group.create_task(self._watch_fleet())
            group.create_task(self._hear_hand_overs())

    async def _discover(self) -> None:
        """Have a task for each address; one that is gone goes when its worker does."""
        while not self._is_stopping:
            self._known = await resolve(self._names)
            for address in self._known - self._tasks.keys():
                self._assignments[address] = Assignment()
                self._tasks[address] = asyncio.create_task(self._serve(address))
            for address in [a for a, task in self._tasks.items() if task.done()]:
                del self._assignments[address]
                await self._tasks.pop(address)  # a bug of ours surfaces here
            await asyncio.sleep(DISCOVERY_INTERVAL_S)

    async def _watch_fleet(self) -> None:
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
            await queue.wait_for_hand_over(seen, DISCOVERY_INTERVAL_S)
            if queue.num_handed_over != seen:
                self._news.set()

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
        for address, assignment in sorted(self._assignments.items()):
            if assignment.incarnation:
                first.setdefault(assignment.incarnation, address)
        return list(first.values())

    def _assign(self, fleet: Fleet) -> None:
        us, owners = self._replica.holder, assign_workers(fleet)
        for address, assignment in self._assignments.items():
            if owners.get(address) == us:
                assignment.keep(may_take=fleet.holders.get(address, us) == us)
            elif fleet.holders.get(address) == us:
                assignment.give_up_in(SETTLE_S)
            else:
                assignment.leave()

    async def _serve(self, address: str) -> None:
        """Drive the worker whenever we should; say why not once for each reason."""
        assignment, said, wait_s = self._assignments[address], "", RETRY_WAIT_S
        while self._is_wanted(address):
            try:
                await self._hold(address, assignment)
                said, wait_s = "", RETRY_WAIT_S
            except (WorkerGone, LeaseLost, Unavailable) as error:
                if str(error) != said:
                    log.info("worker %s: %s", address, error)
                said = str(error)
            except Exception as error:
                # A bug of ours or the worker's ends this hold; the next begins with a reset.
                log.exception("worker %s: %s, taking it anew", address, type(error).__name__)
                wait_s = min(2 * wait_s, MAX_RETRY_WAIT_S)
            assignment.incarnation = ""  # Others may try meanwhile.
            await assignment.closed_within(wait_s)

    def _is_wanted(self, address: str) -> bool:
        return address in self._known and not self._is_stopping

    async def _hold(self, address: str, assignment: Assignment) -> None:
        """See that the worker answers, again and again until we should drive it; then do."""
        async with worker_stream(address, self._replica.settings) as stream:
            while self._is_wanted(address):
                info = await stream.describe()
                check_worker(info, self._replica)
                if assignment.incarnation != info.incarnation:
                    assignment.incarnation = info.incarnation
                    self._news.set()
                if await assignment.should_hold_within(PROBE_INTERVAL_S):
                    await hold(self._replica, address, stream, info, assignment)
                    return

    async def drain(self) -> None:
        """Hand every worker over: commit, requeue, release. No generation is waited for."""
        self._is_stopping = True
        async with self._attending:
            # First of all, so that what we let go of is not dealt out to us.
            with contextlib.suppress(Unavailable):
                await self._replica.queue.depart(self._replica.holder)
        for assignment in self._assignments.values():
            assignment.close()
        await asyncio.gather(*self._tasks.values())
