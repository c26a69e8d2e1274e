"""All lanes of one scheduler: finds the workers, and tries to hold each of them."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Sequence

from scheduler_svc.fleet.assignment import Assignment
from scheduler_svc.fleet.hold import hold, worker_stream
from scheduler_svc.fleet.roll import Roll
from scheduler_svc.fleet.watch import FleetWatch
from scheduler_svc.lane.lane import LeaseLost
from scheduler_svc.lane.replica import Replica
from scheduler_svc.lane.worker_stream import WorkerGone
from stepserve.protocol.errors import Unavailable
from stepserve.protocol.step import PROTOCOL_VERSION, WorkerInfo

log = logging.getLogger(__name__)

DISCOVERY_INTERVAL_S = 2.0
RETRY_WAIT_S, MAX_RETRY_WAIT_S = 0.5, 30.0
# How often to ask whether another's worker answers.
PROBE_INTERVAL_S = 1.0


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

    A worker says which model it serves: that model's replica, and no other, may drive it.
    ``replicas`` are those of one scheduler, each of a model; ``names`` are HOST:PORT, each of any
    number of workers.
    """

    def __init__(self, replicas: Sequence[Replica], names: Sequence[str]) -> None:
        self._names = names
        self._settings = replicas[0].settings
        self._is_stopping = False
        self._known: set[str] = set()
        self._assignments: dict[str, Assignment] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._replicas = {each.card.name: each for each in replicas}
        self._watches = {
            name: FleetWatch(replica, self._assignments) for name, replica in self._replicas.items()
        }
        self._roll = Roll(replicas[0].queue.registry(), replicas[0].holder, self._assignments)

    async def run(self) -> None:
        """Follow the workers until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._discover())
            group.create_task(self._roll.run())
            for watch in self._watches.values():
                group.create_task(watch.run())

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
                said = assignment.problem = str(error)
            except Exception as error:
                # A bug of ours or the worker's ends this hold; the next begins with a reset.
                log.exception("worker %s: %s, taking it anew", address, type(error).__name__)
                wait_s = min(2 * wait_s, MAX_RETRY_WAIT_S)
                assignment.problem = f"{type(error).__name__} in the lane that drove it"
            assignment.incarnation = ""  # Others may try meanwhile.
            await assignment.closed_within(wait_s)

    def _is_wanted(self, address: str) -> bool:
        return address in self._known and not self._is_stopping

    async def _hold(self, address: str, assignment: Assignment) -> None:
        """Ask the worker what it is until it should be ours; then drive it, and return."""
        async with worker_stream(address, self._settings) as stream:
            while self._is_wanted(address):
                info = await stream.describe()
                assignment.answered(info)
                replica = self._replica_for(info)
                if assignment.incarnation != info.incarnation:
                    assignment.incarnation, assignment.problem = info.incarnation, ""
                    self._watches[info.model].look_now()
                if await assignment.should_hold_within(PROBE_INTERVAL_S):
                    await hold(replica, address, stream, info, assignment)
                    return

    def _replica_for(self, info: WorkerInfo) -> Replica:
        """Return who may drive it. Raises WorkerGone where it is nobody here."""
        if info.protocol_version != PROTOCOL_VERSION:
            raise WorkerGone(f"speaks protocol {info.protocol_version}, not {PROTOCOL_VERSION}")
        if info.model not in self._replicas:
            raise WorkerGone(f"serves {info.model}, not {' or '.join(self._replicas)}")
        return self._replicas[info.model]

    async def drain(self) -> None:
        """Hand every worker over: commit, requeue, release. No generation is waited for."""
        self._is_stopping = True
        # First of all, so that what we let go of is not dealt out to us.
        await asyncio.gather(*(watch.depart() for watch in self._watches.values()))
        for assignment in self._assignments.values():
            assignment.close()
        await asyncio.gather(*self._tasks.values())
