"""What edges keep of a lane's jobs, where that is too large to come with a claim."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from scheduler_svc.lane.held_jobs import HeldJobs
from scheduler_svc.lane.loop import Destination
from scheduler_svc.queue import RECORD_ERRORS, JobQueue, num_missing
from stepserve.protocol.errors import Unavailable
from stepserve.protocol.job import ClaimedJob

# Of all jobs of a lane together.
MAX_BYTES = 64 * 2**20
_RETRY_WAIT_S = 0.2


class LargeEdges:
    """Reads them one at a time, beside all else: who loses a job in a failover has them then.

    As many as ``MAX_BYTES`` hold; of what is beyond that only who stored a job has a copy, for as
    long as it may be lost.
    """

    def __init__(self, queue: JobQueue, held: HeldJobs) -> None:
        self._queue = queue
        self._held = held
        self._reads: Destination[str] = Destination(self._read)

    def take(self, jobs: Sequence[ClaimedJob]) -> None:
        """These are held now."""
        for job in jobs:
            if num_missing(job.spec.record):
                self._reads.put(job.spec.job_id)

    async def run(self) -> None:
        """Read until cancelled."""
        await self._reads.run()

    async def _read(self, job_id: str) -> None:
        while (spec := self._held.spec_of(job_id)) is not None:
            num_bytes = num_missing(spec.record)
            if not num_bytes or self._held.num_edge_bytes + num_bytes > MAX_BYTES:
                return
            try:
                edge = await self._queue.edge_of(job_id)
            except Unavailable:
                await asyncio.sleep(_RETRY_WAIT_S)
                continue
            except RECORD_ERRORS:
                return  # It is broken, which is for who needs it to say.
            if edge:
                self._held.learn_edge(job_id, edge)
            return
