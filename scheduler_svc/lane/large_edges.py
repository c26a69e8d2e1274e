"""What edges keep of a lane's jobs, where that is too large to come with a claim."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from scheduler_svc.lane.edge_room import EdgeRoom
from scheduler_svc.lane.held_jobs import HeldJobs
from scheduler_svc.lane.loop import Destination
from scheduler_svc.queue import RECORD_ERRORS, JobQueue, num_missing
from stepserve.protocol.errors import Unavailable
from stepserve.protocol.job import ClaimedJob

_RETRY_WAIT_S = 0.2


class LargeEdges:
    """Reads them one at a time, beside all else: who loses a job in a failover has them then.

    As many as there is ``room`` for; of what is beyond that only who stored a job has a copy, for
    as long as it may be lost.
    """

    def __init__(self, queue: JobQueue, held: HeldJobs, room: EdgeRoom) -> None:
        self._queue = queue
        self._held = held
        self._room = room
        self._reads: Destination[str] = Destination(self._read)

    def take(self, jobs: Sequence[ClaimedJob]) -> None:
        """These are held now."""
        for job in jobs:
            if num_missing(job.spec.record):
                self._reads.put(job.spec.job_id)

    async def run(self) -> None:
        """Read until cancelled."""
        with self._room.shared_by(self._held):
            await self._reads.run()

    async def _read(self, job_id: str) -> None:
        while True:
            await asyncio.sleep(0)  # There may be many, and steps do not wait for them.
            try:
                async with self._room.turn:
                    await self._read_now(job_id)
                return
            except Unavailable:
                await asyncio.sleep(_RETRY_WAIT_S)
            except RECORD_ERRORS:
                return  # It is broken, which is for who needs it to say.

    async def _read_now(self, job_id: str) -> None:
        """Read it if it is held still, and there is room."""
        spec = self._held.spec_of(job_id)
        num_bytes = num_missing(spec.record) if spec is not None else 0
        if num_bytes and self._room.has(num_bytes) and (edge := await self._queue.edge_of(job_id)):
            self._held.learn_edge(job_id, edge)
