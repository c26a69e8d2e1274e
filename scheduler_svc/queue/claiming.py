"""Taking jobs from the queue for a lane, and giving them back."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from protos.job import ClaimedJob, Finish, JobSpec, OutputLog
from scheduler_svc.queue.codec import Corrupt, decode_spec
from scheduler_svc.queue.ending import Ending
from scheduler_svc.queue.lease import Fenced, Lease
from scheduler_svc.queue.rows import LogRequest, decode_outputs, encode_requests
from scheduler_svc.queue.shard import Shard

_MAX_PASSED_OVER = 64
_MAX_DOUBTFUL = 1024

log = logging.getLogger(__name__)


class Claiming:
    """Claims of one process's lanes; one claim at a time for each lease.

    A claim whose answer was lost must not leave jobs that nobody runs: the ids that were
    named are kept until a claim has succeeded, and the next one names them again.
    """

    def __init__(self, shard: Shard, ending: Ending) -> None:
        self._shard = shard
        self._ending = ending
        self._doubtful: dict[int, list[str]] = {}

    async def claim(self, lease: Lease, fingerprint: str, max_jobs: int) -> list[ClaimedJob]:
        named = self._doubtful.setdefault(lease.epoch, [])
        if len(self._doubtful) > _MAX_DOUBTFUL:
            # Of a lease that was lost long ago; one that is held claims again and again.
            del self._doubtful[next(iter(self._doubtful))]
        try:
            records = await self._take(lease, fingerprint, max_jobs, named)
            jobs = await self._read(records)
        except Fenced:
            self._doubtful.pop(lease.epoch, None)
            raise
        self._doubtful.pop(lease.epoch, None)
        return jobs

    async def requeue(self, lease: Lease, job_ids: Sequence[str]) -> int:
        keys = self._shard.keys
        answer = await self._shard.run(
            "requeue",
            [
                *(keys.lease(lease.worker_id), keys.claims(lease.worker_id)),
                *(keys.queue, keys.bell, keys.rings, *map(keys.job, job_ids)),
            ],
            [lease.epoch, *job_ids],
        )
        if answer is None:
            raise Fenced(f"the lease on {lease.worker_id} is another's")
        return int(answer)

    async def claimed(self, lease: Lease) -> frozenset[str]:
        keys = self._shard.keys
        answer = await self._shard.run(
            "claimed",
            [keys.lease(lease.worker_id), keys.claims(lease.worker_id)],
            [lease.epoch],
        )
        if answer is None:
            raise Fenced(f"the lease on {lease.worker_id} is another's")
        return frozenset(job_id.decode() for job_id in answer)

    async def _take(
        self, lease: Lease, fingerprint: str, max_jobs: int, named: list[str]
    ) -> list[Any]:
        """Claims page by page, so that jobs for another model never hide those behind them."""
        taken: list[Any] = []
        least, seen, page_size = "-inf", set(named), max_jobs
        candidates = list(named)
        while True:
            page, least = await self._page(least, page_size)
            fresh = [job_id for job_id in page if job_id not in seen]
            seen.update(fresh)
            named += fresh
            candidates += fresh
            # Also where there is none: a lane that is fenced off learns it here.
            taken += await self._claim(lease, fingerprint, max_jobs - len(taken), candidates)
            if not fresh or len(page) < page_size or len(taken) >= max_jobs:
                return taken
            candidates, page_size = [], max_jobs + _MAX_PASSED_OVER

    async def _page(self, least: str, size: int) -> tuple[list[str], str]:
        """Ids of the first jobs with a score of at least ``least``, and the last one's score."""
        answer = await self._shard.link.call(
            *("ZRANGEBYSCORE", self._shard.keys.queue, least, "+inf"),
            *("WITHSCORES", "LIMIT", 0, size),
        )
        if not answer:
            return [], least
        return [job_id.decode() for job_id in answer[::2]], answer[-1].decode()

    async def _claim(
        self, lease: Lease, fingerprint: str, room: int, candidates: Sequence[str]
    ) -> list[Any]:
        keys = self._shard.keys
        answer = await self._shard.run(
            "claim",
            [
                *(keys.lease(lease.worker_id), keys.claims(lease.worker_id), keys.queue),
                *map(keys.job, candidates),
            ],
            [lease.worker_id, lease.epoch, fingerprint, room, *candidates],
        )
        if answer is None:
            raise Fenced(f"the lease on {lease.worker_id} is another's")
        return list(answer)

    async def _read(self, records: Sequence[Any]) -> list[ClaimedJob]:
        jobs: list[ClaimedJob] = []
        for job_id, spec, prompt, arrival, deadline, fingerprint in records:
            try:
                decoded = decode_spec(spec, prompt, arrival, deadline)
                outputs = await self._outputs(decoded, fingerprint is not None)
            except Corrupt as error:
                log.error("job %s cannot be read: %s", job_id.decode(), error)
                await self._ending.end(job_id.decode(), Finish("error", str(error)))
            else:
                jobs.append(ClaimedJob(decoded, outputs))
        return jobs

    async def _outputs(self, spec: JobSpec, has_output: bool) -> tuple[OutputLog, ...]:
        indices = range(spec.sampling.n)
        if not has_output:
            return tuple(map(OutputLog, indices))
        wants_logprobs = spec.sampling.logprobs >= 0
        requests = [LogRequest(spec.job_id, index, 0, wants_logprobs) for index in indices]
        names, packed = encode_requests(self._shard.keys, requests)
        answer = await self._shard.run("read", names, [packed])
        outputs = zip(indices, decode_outputs(requests, answer), strict=True)
        return tuple(output or OutputLog(index) for index, output in outputs)
