"""What can be read of a shard: its jobs, by id or as a list, its backlog and its workers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence

from scheduler_svc.queue.backlog import Backlog, BacklogReader, Waiting
from scheduler_svc.queue.lease import WorkerRecord
from scheduler_svc.queue.line import WaitingJob, read_line
from scheduler_svc.queue.listing import Place, list_page, list_snapshots, merged
from scheduler_svc.queue.rows import LogRequest, decode_outputs, encode_requests
from scheduler_svc.queue.shard import Shard
from scheduler_svc.queue.snapshot import (
    JobSnapshot,
    JobState,
    read_edge,
    read_prompt,
    read_snapshot,
)
from scheduler_svc.queue.worker_records import live_workers
from stepserve.protocol.job import OutputLog


class JobReader:
    """The reading half of a ``JobQueue``."""

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        self._backlog = BacklogReader(shard)

    async def job(self, job_id: str) -> JobSnapshot | None:
        """None for an unknown job. Raises Corrupt where its record can't be read."""
        return await read_snapshot(self._shard, job_id)

    async def prompt(self, job_id: str) -> Sequence[int]:
        """A job's prompt, which its snapshot lacks; none for an unknown job. Raises Corrupt."""
        return await read_prompt(self._shard, job_id)

    async def edge_of(self, job_id: str) -> str:
        """What was kept with a job at its submit; empty for an unknown job, or where it was."""
        return await read_edge(self._shard, job_id)

    async def jobs(
        self, *, state: JobState | None = None, tenant: str = "", limit: int = 100
    ) -> list[JobSnapshot]:
        """At most ``limit`` jobs, newest first; of any tenant where none is named.

        Those whose records can't be read are left out, and logged.
        """
        found, _ = await self.page(state=state, tenant=tenant, limit=limit)
        return found

    async def page(
        self,
        *,
        state: JobState | None = None,
        tenant: str = "",
        limit: int = 100,
        after: Place | None = None,
    ) -> tuple[list[JobSnapshot], Place | None]:
        """Like ``jobs``, of those behind ``after``; and where to go on, None if that was all."""
        return await page_of([self], state=state, tenant=tenant, limit=limit, after=after)

    def listing(
        self, state: JobState | None, after: Place | None
    ) -> AsyncIterator[tuple[Place, JobSnapshot]]:
        """Its jobs behind ``after``, newest first, for ``page_of``."""
        return list_snapshots(self._shard, state, after)

    async def read(self, requests: Sequence[LogRequest]) -> list[OutputLog | None]:
        """The outputs from their offsets on, as of one moment; None for an unknown job.

        An offset beyond the end of a log reads as no tokens. Raises Corrupt where any of
        them can't be read.
        """
        if not requests:
            return []
        names, packed = encode_requests(self._shard.keys, requests)
        answer = await self._shard.run("read", [names], [packed])
        outputs = []
        for output in decode_outputs(requests, answer):
            outputs.append(output)
            if output is not None and output.logprobs:
                # They take long to decode, and there may be many outputs.
                await asyncio.sleep(0)
        return outputs

    async def workers(self) -> list[WorkerRecord]:
        """The workers whose leases are good now."""
        return await live_workers(self._shard)

    async def line(self, max_jobs: int) -> list[WaitingJob]:
        """The first of the jobs that wait, in the order in which they are due."""
        return await read_line(self._shard, max_jobs)

    async def num_queued(self) -> int:
        return int(await self._shard.link.call("ZCARD", self._shard.keys.queue))

    async def backlog(self) -> Backlog:
        """How much work there is, as of now."""
        return await self._backlog.read()

    async def waiting_by_tenant(self, max_jobs: int) -> Mapping[str, Waiting]:
        """Whose jobs wait, and since when: of the first ``max_jobs`` in line."""
        return await self._backlog.by_tenant(max_jobs)


async def page_of(
    readers: Sequence[JobReader],
    *,
    state: JobState | None,
    tenant: str,
    limit: int,
    after: Place | None,
) -> tuple[list[JobSnapshot], Place | None]:
    """A page of several models' jobs, as ``JobReader.page`` gives it of one."""
    listings = [reader.listing(state, after) for reader in readers]
    return await list_page(merged(listings), tenant, limit)
