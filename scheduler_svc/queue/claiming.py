"""Taking jobs from the queue for a lane, and giving them back."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

from scheduler_svc.order import NUM_COMPARED, Order, Policy
from scheduler_svc.queue.codec import RECORD_ERRORS, decode_spec, unpack_u32
from scheduler_svc.queue.ending import Ending
from scheduler_svc.queue.lease import Fenced, Lease
from scheduler_svc.queue.resp import Argument
from scheduler_svc.queue.rows import LogRequest, decode_outputs, encode_requests
from scheduler_svc.queue.shard import Shard
from scheduler_svc.queue.suspicion import Suspicion
from scheduler_svc.suspects import next_trial
from stepserve.protocol.job import ClaimedJob, JobSpec, OutputLog

UNBOUNDED = 2**53
_MAX_PASSED_OVER = 64
_MAX_DOUBTFUL = 1024

# How many tokens of a tenant's prompt a lane has cached.
Prefer = Callable[[str, Sequence[int]], int]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Wish:
    """What a lane claims: so many jobs of a rank below ``max_rank``; see ``JobQueue.claim``.

    ``max_context`` is how many tokens of a job its worker has room for.
    """

    fingerprint: str
    max_jobs: int
    max_rank: float = math.inf
    prefer: Prefer | None = None
    max_context: int = UNBOUNDED


@dataclass(frozen=True, slots=True)
class SuspectClaim:
    """Suspects to be tried together, and what a lost answer had.

    ``is_lane_wanted``: there are some, and every worker holds others, ours the fewest.
    """

    jobs: Sequence[ClaimedJob] = ()
    is_lane_wanted: bool = False


def _num_cached(prefer: Prefer, tenant: str, prompt: bytes) -> int:
    """What speaks for a job; nothing where its record is broken, as who claims it will find."""
    try:
        return prefer(tenant, unpack_u32(prompt))
    except RECORD_ERRORS:
        return 0


class Claiming:
    """Claims of one process's lanes; one claim at a time for each lease.

    A claim whose answer was lost must not leave jobs that nobody runs: the ids that were
    named are kept until a claim has succeeded, and the next one names them again.
    """

    def __init__(self, shard: Shard, ending: Ending, suspicion: Suspicion) -> None:
        self._shard = shard
        self._ending = ending
        self._suspicion = suspicion
        self._doubtful: dict[int, list[str]] = {}

    async def claim(self, lease: Lease, wish: Wish) -> list[ClaimedJob]:
        with self._naming(lease) as named:
            return await self._read(await self._take(lease, wish, named), wish.fingerprint)

    async def claim_suspects(self, lease: Lease, wish: Wish) -> SuspectClaim:
        waiting = await self._suspicion.waiting()
        if not waiting:
            return SuspectClaim()
        stage = await self._suspicion.stage(lease)
        while stage.is_ours and (trial := next_trial(waiting)[: wish.max_jobs]):
            with self._naming(lease) as named:
                candidates = list(dict.fromkeys([*named, *trial]))
                named.extend(trial)
                room = len(trial)
                taken = await self._claim(lease, wish, room, candidates, suspects=True)
                if jobs := await self._read(taken, wish.fingerprint):
                    return SuspectClaim(jobs)
            if taken:
                await self._suspicion.retire(lease)
            # Our worker can run none of these; others may be for it.
            waiting = {i: count for i, count in waiting.items() if i not in trial}
        return SuspectClaim(is_lane_wanted=bool(waiting) and stage.is_wanted)

    async def inherit(self, lease: Lease, fingerprint: str) -> list[ClaimedJob]:
        """What is claimed under the lease already, by whoever had it before, and goes on."""
        job_ids = sorted(await self.claimed(lease))
        if not job_ids:
            return []
        link, keys = self._shard.link, self._shard.keys
        # Their ranks compare with nothing, and are mended where they wait.
        ranks = await link.call("ZMSCORE", keys.unranked, *job_ids)
        known = zip(job_ids, ranks, strict=True)
        if unranked := [job_id for job_id, rank in known if rank is not None]:
            await self.requeue(lease, unranked)
        held = await self._claim(lease, Wish(fingerprint, 0), 0, job_ids)
        return await self._read(held, fingerprint)

    @contextmanager
    def _naming(self, lease: Lease) -> Iterator[list[str]]:
        """The ids that claims under the lease have named since one succeeded, to be added to."""
        named = self._doubtful.setdefault(lease.epoch, [])
        if len(self._doubtful) > _MAX_DOUBTFUL:
            # Of a lease that was lost long ago; one that is held claims again and again.
            del self._doubtful[next(iter(self._doubtful))]
        try:
            yield named
        except Fenced:
            self._doubtful.pop(lease.epoch, None)
            raise
        self._doubtful.pop(lease.epoch, None)

    async def requeue(self, lease: Lease, job_ids: Sequence[str]) -> int:
        keys = self._shard.keys
        answer = await self._shard.run(
            "requeue",
            [
                keys.lease(lease.worker_id),
                keys.claims(lease.worker_id),
                keys.queue,
                keys.bell,
                keys.rings,
                *map(keys.job, job_ids),
            ],
            [lease.epoch, *job_ids],
        )
        return int(lease.checked(answer))

    async def outgrow(self, lease: Lease, job_id: str, need: int) -> None:
        keys = self._shard.keys
        answer = await self._shard.run(
            "outgrow",
            [
                keys.lease(lease.worker_id),
                keys.claims(lease.worker_id),
                keys.queue,
                keys.bell,
                keys.rings,
                keys.job(job_id),
            ],
            [lease.epoch, job_id, need],
        )
        lease.checked(answer)

    async def claimed(self, lease: Lease) -> frozenset[str]:
        keys = self._shard.keys
        answer = await self._shard.run(
            "claimed",
            [keys.lease(lease.worker_id), keys.claims(lease.worker_id)],
            [lease.epoch],
        )
        return frozenset(job_id.decode() for job_id in lease.checked(answer))

    async def _take(self, lease: Lease, wish: Wish, named: list[str]) -> list[Any]:
        """Claims page by page, so that jobs for another model never hide those behind them."""
        taken: list[Any] = []
        least, seen, page_size = "-inf", set(named), wish.max_jobs
        if wish.prefer is not None:
            page_size = max(page_size, NUM_COMPARED)
        candidates = list(named)
        while True:
            page = await self._page(least, wish.max_rank, page_size)
            fresh = [job_id for job_id, _ in page if job_id not in seen]
            if wish.prefer is not None and not seen and len(page) > wish.max_jobs:
                fresh = await self._reorder(page, wish, wish.prefer)
            seen.update(fresh)
            named += fresh
            candidates += fresh
            # Also where there is none: a lane that is fenced off learns it here.
            taken += await self._claim(lease, wish, wish.max_jobs - len(taken), candidates)
            if len(page) < page_size or len(taken) >= wish.max_jobs:
                return taken
            # From the last rank on, however many have it: positions shift while others claim.
            last, candidates = page[-1][1], []
            num_again = sum(rank == last for _, rank in page)
            least, page_size = repr(last), num_again + wish.max_jobs + _MAX_PASSED_OVER

    async def _page(self, least: str, max_rank: float, size: int) -> list[tuple[str, float]]:
        """Ids and ranks of the first jobs from rank ``least`` on and below ``max_rank``."""
        below = f"({max_rank!r}" if max_rank < math.inf else "+inf"
        answer = await self._shard.link.call(
            "ZRANGEBYSCORE",
            self._shard.keys.queue,
            least,
            below,
            "WITHSCORES",
            "LIMIT",
            0,
            size,
        )
        ids = [job_id.decode() for job_id in answer[::2]]
        return list(zip(ids, map(float, answer[1::2]), strict=True))

    async def _reorder(
        self, page: Sequence[tuple[str, float]], wish: Wish, prefer: Prefer
    ) -> list[str]:
        """The page's ids; of those close behind the first one, what is cached goes first.

        Nobody is overtaken by a job whose rank is further behind than the slack, so the
        number of those that overtake a job is bounded whatever is cached. Prompts are read
        and hashed only where not all of these jobs will be taken.
        """
        link, keys, ids = self._shard.link, self._shard.keys, [job_id for job_id, _ in page]
        policy = await link.call("HGET", keys.order, "policy") or b"fcfs"
        order = Order(policy=cast(Policy, policy.decode()))
        head = ids[: order.num_comparable([rank for _, rank in page])]
        if len(head) <= wish.max_jobs:
            return ids
        names = list(map(keys.job, head))
        records = await link.records(names, "tenant", "prompt", "fingerprint")
        # Jobs of a version that knew no ranks lack the tenant.
        near = {
            job_id: ((tenant or b"").decode(), prompt)
            for job_id, (tenant, prompt, of) in zip(head, records, strict=True)
            if prompt and of in (None, wish.fingerprint.encode())
        }
        if len(near) <= wish.max_jobs:
            return ids
        cached = {job_id: _num_cached(prefer, *of) for job_id, of in near.items()}
        return sorted(ids, key=lambda job_id: -cached.get(job_id, 0))

    async def _claim(
        self,
        lease: Lease,
        wish: Wish,
        room: int,
        candidates: Sequence[str],
        suspects: bool = False,
    ) -> list[Any]:
        keys = self._shard.keys
        asked: list[Argument] = [
            wish.fingerprint,
            room,
            wish.max_rank,
            wish.max_context,
            int(suspects),
        ]
        answer = await self._shard.run(
            "claim",
            [
                keys.lease(lease.worker_id),
                keys.claims(lease.worker_id),
                keys.queue,
                keys.vtime,
                keys.stranded,
                keys.workers,
                keys.canary,
                *map(keys.job, candidates),
            ],
            [lease.worker_id, lease.epoch, *asked, *candidates],
        )
        return list(lease.checked(answer))

    async def _read(self, records: Sequence[Any], of: str) -> list[ClaimedJob]:
        jobs: list[ClaimedJob] = []
        for job_id, *record in records:
            try:
                jobs.append(await self._job(record, of))
            except RECORD_ERRORS as error:
                log.error("job %s cannot be read: %s", job_id.decode(), type(error).__name__)
                await self._ending.fail(job_id.decode(), f"it can't be read: {error}")
            # There may be many, and steps do not wait for them.
            await asyncio.sleep(0)
        return jobs

    async def _job(self, record: Sequence[Any], of: str) -> ClaimedJob:
        spec, prompt, arrival, deadline, fingerprint, rank, strikes, kept = record
        names = map(bytes.decode, kept[::2])
        rest = {"fingerprint": of.encode(), **dict(zip(names, kept[1::2], strict=True))}
        decoded = replace(decode_spec(spec, prompt, arrival, deadline), record=rest)
        outputs = await self._outputs(decoded, fingerprint is not None)
        return ClaimedJob(decoded, outputs, float(rank), int(strikes))

    async def _outputs(self, spec: JobSpec, has_output: bool) -> tuple[OutputLog, ...]:
        indices = range(spec.sampling.n)
        if not has_output:
            return tuple(map(OutputLog, indices))
        wants_logprobs = spec.sampling.logprobs >= 0
        requests = [LogRequest(spec.job_id, index, 0, wants_logprobs) for index in indices]
        names, packed = encode_requests(self._shard.keys, requests)
        answer = await self._shard.run("read", [names], [packed])
        outputs = zip(indices, decode_outputs(requests, answer), strict=True)
        return tuple(output or OutputLog(index) for index, output in outputs)
