"""The durable queue of one model: jobs, their token logs, and the leases on its workers."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from scheduler_svc.order import Order
from scheduler_svc.queue.address import Host, parse_address
from scheduler_svc.queue.attendance import Attendance, Fleet
from scheduler_svc.queue.balance import Balance
from scheduler_svc.queue.bell import Bell
from scheduler_svc.queue.claiming import UNBOUNDED, Claiming, Prefer, SuspectClaim, Wish
from scheduler_svc.queue.committing import Committing
from scheduler_svc.queue.connection import Servers
from scheduler_svc.queue.ending import Ending, Sweep
from scheduler_svc.queue.follower import Follower
from scheduler_svc.queue.job_reader import JobReader
from scheduler_svc.queue.keys import REGISTRY_TOLD, Keys
from scheduler_svc.queue.lease import Lease, Renewal
from scheduler_svc.queue.leasing import Leasing
from scheduler_svc.queue.limits import QueueLimits
from scheduler_svc.queue.link import RedisLink
from scheduler_svc.queue.live import Live
from scheduler_svc.queue.looks import Looks
from scheduler_svc.queue.mending import Mending
from scheduler_svc.queue.presence import Presence
from scheduler_svc.queue.quota import Quota
from scheduler_svc.queue.ranking import Ranking
from scheduler_svc.queue.registry import Registry
from scheduler_svc.queue.rows import NOT_KNOWN, CachedTokens, RowAnswer
from scheduler_svc.queue.scripts import load_scripts
from scheduler_svc.queue.server_check import Memory, check_server
from scheduler_svc.queue.shard import Shard
from scheduler_svc.queue.shelf import Shelf, T
from scheduler_svc.queue.snapshot import ended_ids
from scheduler_svc.queue.stranding import Stranding
from scheduler_svc.queue.submitting import WHATEVER, Submitted, Submitting
from scheduler_svc.queue.suspicion import Accused, Suspicion, Verdicts
from stepserve.metrics.histogram import Histogram
from stepserve.protocol.job import ClaimedJob, CommitRow, Finish, JobSpec


class JobQueue(JobReader):
    """One model's jobs in Redis. Any number of processes may work on them.

    Every method raises ``Unavailable`` when Redis does not serve; all may be called
    again then. Those that take a lease raise ``Fenced`` when it is another's now.
    Jobs are ranked in the order that is stored: ``order`` (first come first
    served by default) where there is none, and from ``adopt_order`` on.
    Belongs to one event loop. Close it.
    """

    def __init__(
        self,
        url: str,
        model: str,
        limits: QueueLimits | None = None,
        order: Order | None = None,
    ) -> None:
        limits = limits or QueueLimits()
        keys, address = Keys(model), parse_address(url)
        self._servers = Servers(address, keys.queue, limits.timeout_s)
        super().__init__(Shard(RedisLink(self._servers, limits), keys, limits, load_scripts()))
        # Connections of the lanes' own: no rush of clients may keep a lease from being renewed.
        self._lanes = replace(self._shard, link=RedisLink(self._servers, limits))
        # What is of no model may be on another server of a cluster.
        self._common_servers = Servers(address, REGISTRY_TOLD, limits.timeout_s)
        self._common = replace(self._shard, link=RedisLink(self._common_servers, limits))
        self._ranking = Ranking(self._shard, order or Order())
        self._submitting = Submitting(self._shard, self._ranking)
        self._leasing = Leasing(self._lanes)
        self._attendance = Attendance(self._lanes)
        self._balance = Balance(self._lanes)
        self._looks = Looks(self._shard)
        self._ending = Ending(self._shard, Leasing(self._shard), self._looks)
        self._suspicion = Suspicion(self._lanes, self._ending)
        self._mending = Mending(self._shard, self._looks, self._submitting, self._suspicion)
        self._claiming = Claiming(self._lanes, self._ending, self._suspicion)
        self._committing = Committing(self._lanes)
        self._stranding = Stranding(self._shard, self._ending)
        self._bell = Bell(self._servers, keys, limits.timeout_s, self._mending.reconnected)
        self.live = Live(self._shard)

    async def __aenter__(self) -> JobQueue:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._bell.close()
        await self._shard.link.close()
        await self._lanes.link.close()
        await self._common.link.close()
        await self._servers.close()
        await self._common_servers.close()

    async def ping(self) -> None:
        """Raises Unavailable unless Redis answers."""
        await self._shard.link.call("PING")

    async def check_server(self, checked: set[Host | None] | None = None) -> None:
        """Warn of what Redis may lose, unless its server is among those ``checked`` already.

        Raises StepserveError where the durability that is promised can't be kept.
        """
        await self._mending.look()
        checked = set() if checked is None else checked
        if self._servers.primary not in checked:
            await check_server(self._shard.link, self._shard.limits.durability)
            checked.add(self._servers.primary)

    async def may_come_back(self) -> bool:
        """Whether a job that is not there may have been lost, and be stored again; see Mending."""
        return await self._mending.may_come_back()

    async def restore(self, spec: JobSpec, *, has_output: bool) -> bool:
        """Store a job again that was claimed and then lost. False where it was forgotten."""
        return await self._mending.restore(spec, has_output=has_output)

    async def memory(self, most_s: float = 0.0) -> Memory:
        """What Redis uses of what it may use, as of no longer ago."""
        return await self._looks.memory(most_s)

    async def now_s(self) -> float:
        """The time by Redis's clock, as in ``JobSpec``: seconds since the epoch."""
        return await self._lanes.now_s()

    async def adopt_order(self) -> None:
        """Make this queue's order the stored one; what lives is ranked anew if it was another.

        To be called when a process starts, before it claims: the last one to start decides.
        """
        await self._ranking.adopt()

    # Clients' side.

    async def submit(
        self,
        spec: JobSpec,
        request_digest: str = "",
        edge: str = "",
        needed_s: float = WHATEVER,
        quota: Quota | None = None,
    ) -> Submitted:
        """Stores a job; ``spec.deadline_s`` counts from now.

        ``request_digest`` tells what was asked from anything else; ``edge`` is kept with the job,
        for ``edge_of``; ``quota`` is what it counts against. Raises QuotaExceeded where that is
        used up, Exhausted where the queue is full, and where a job that takes ``needed_s`` at
        least (0: not known) would wait too long to be in time; InvalidRequest where the key has
        another request's job."""
        return await self._submitting.submit(spec, request_digest, edge, needed_s, quota)

    async def stored_for(self, tenant: str, key: str, request_digests: Collection[str]) -> str:
        """Return the job that a request of such a digest was stored as, "" where there is none."""
        return await self._submitting.stored_for(tenant, key, request_digests)

    async def is_known(self, tenant: str, idempotency_key: str) -> bool:
        """Whether a job was submitted with the key, so that a submit would answer that one."""
        return await self._submitting.is_known(tenant, idempotency_key)

    async def estimate(self, tenant: str, max_tokens: int) -> float | None:
        """How many tokens an output of the tenant is expected to become, at most that many.

        None while too few outputs have finished to tell.
        """
        return await self._ranking.estimate(tenant, max_tokens)

    async def cancel(self, job_id: str, reason: str = "cancelled", message: str = "") -> bool:
        """Ends every output that has not ended. False where the job had ended or is unknown."""
        return await self._ending.end(job_id, Finish(reason, message))

    async def forget(self, job_id: str) -> bool:
        """Drops all that is kept of a job that has ended. False where it has not, or is gone."""
        self._submitting.forgotten(job_id)
        return await self._ending.forget(job_id)

    def shelf(self, kind: str, of: type[T]) -> Shelf[T]:
        """Records of a kind that an edge keeps beside jobs, each such a value."""
        return Shelf(self._shard, kind, of)

    def registry(self) -> Registry:
        """What schedulers know of workers; the same from whichever model's queue."""
        return Registry(self._common)

    def presence(self, replica: str, ttl_ms: int) -> Presence:
        """For a replica whose clients follow jobs that are to end when nobody does."""
        return Presence(self._shard, self._ending, replica, ttl_ms)

    def follow(self, *, hear_moved: bool = True) -> Follower:
        """Tells which jobs moved, for as long as it is iterated; first that all may have.

        Without ``hear_moved`` only which have ended. All followers of a process hear by
        one connection to Redis.
        """
        return self._bell.follow(hear_moved=hear_moved)

    # Lanes' side.

    async def attend(self, holder: str, ttl_ms: int, reach: Collection[str]) -> Fleet:
        """Say that ``holder`` lives and could drive the workers ``reach``; learn who else does.

        It is believed for ``ttl_ms``, or until ``depart``.
        """
        return await self._attendance.attend(holder, ttl_ms, reach)

    async def depart(self, holder: str) -> None:
        """Say that ``holder`` takes no more workers."""
        await self._attendance.depart(holder)

    async def acquire(
        self,
        worker_id: str,
        holder: str,
        ttl_ms: int,
        info: Mapping[str, str] | None = None,
        incarnation: str = "",
    ) -> Lease | None:
        """The right to drive a worker, or None where another holder has it.

        A lease that is free, expired or the holder's own already is given out anew, with
        a higher epoch; jobs that were claimed under it wait in the queue again, where
        they stood. With the ``incarnation`` of the worker, those that were claimed for the
        same one stay claimed: see ``inherit``. ``info`` is told to everyone who asks for the
        workers.
        """
        return await self._leasing.acquire(worker_id, holder, ttl_ms, info or {}, incarnation)

    async def renew(self, lease: Lease, step_us: int = 0, num_used_blocks: int = 0) -> Renewal:
        """Whether it is ours still, and the order the same. An expired one that nobody took is.

        Tells all who ask for workers how long a step takes (0: not known) and the KV blocks held.
        """
        return await self._leasing.renew(lease, step_us, num_used_blocks)

    async def release(self, lease: Lease) -> bool:
        """Gives the lease up and what is claimed under it back; False: it is another's."""
        return await self._leasing.release(lease)

    async def hand_over(self, lease: Lease) -> bool:
        """Gives the lease up with what is claimed under it; False: it is another's.

        Who waits for that hears of it. If nobody takes it within the grace, ``sweep`` frees it.
        """
        return await self._leasing.hand_over(lease)

    @property
    def num_handed_over(self) -> int:
        """Grows when workers may have been handed over, for ``wait_for_hand_over``."""
        return self._bell.num_handed_over

    async def wait_for_hand_over(self, seen: int, timeout_s: float) -> None:
        """Returns once ``num_handed_over`` is not ``seen`` any more, or after ``timeout_s``."""
        await self._bell.wait_handed_over(seen, timeout_s)

    @property
    def num_arrivals(self) -> int:
        """Grows when jobs come to wait. Take it before a claim, for ``wait_for_jobs``."""
        return self._bell.num_arrivals

    async def wait_for_jobs(self, seen: int, timeout_s: float) -> None:
        """Returns once ``num_arrivals`` is not ``seen`` any more, or after ``timeout_s``."""
        await self._bell.wait_arrivals(seen, timeout_s)

    async def allowance(self, lease: Lease, max_jobs: int) -> int:
        """How many of ``max_jobs`` to claim now so that lanes come to hold equally many.

        At least 1. Where others hold less it lets them claim first, for a moment.
        """
        return await self._balance.allowance(lease, max_jobs)

    async def claim(
        self,
        lease: Lease,
        fingerprint: str,
        max_jobs: int,
        max_rank: float = math.inf,
        prefer: Prefer | None = None,
        max_context: int = UNBOUNDED,
    ) -> list[ClaimedJob]:
        """Takes up to ``max_jobs`` jobs, first in line first, with the output they have.

        Only jobs of a rank below ``max_rank``. Where more wait than are taken, ``prefer``
        says how many tokens of a tenant's prompt are cached, and of the first 16 those with
        the most go first, as far as the order's ``affinity_slack`` reaches.

        Passes over jobs that have output of a model with another fingerprint, those that may
        come to more than ``max_context`` tokens, and suspects. One call at a time for each
        lease, of this and ``claim_suspects``. After Unavailable, what was claimed unnoticed
        comes with the next claim, whatever its rank.
        """
        wish = Wish(fingerprint, max_jobs, max_rank, prefer, max_context)
        return await self._claiming.claim(lease, wish)

    async def claim_suspects(
        self, lease: Lease, fingerprint: str, max_jobs: int, max_context: int = UNBOUNDED
    ) -> SuspectClaim:
        """Takes jobs that were there when a worker crashed, to be tried; see ``strike``. Only by a
        lease that holds no job, and under one lease at a time. ``retire`` ends that.
        """
        wish = Wish(fingerprint, max_jobs, max_context=max_context)
        return await self._claiming.claim_suspects(lease, wish)

    async def has_suspects(self) -> bool:
        """Whether any wait to be tried."""
        return bool(await self._suspicion.waiting())

    async def retire(self, lease: Lease) -> None:
        """No suspect is tried under the lease any more: all have shown what they had to."""
        await self._suspicion.retire(lease)

    async def inherit(self, lease: Lease, fingerprint: str) -> list[ClaimedJob]:
        """What is claimed under the lease, with the output it has: to be run on.

        Jobs whose rank is of an order before this one are given back instead.
        """
        return await self._claiming.inherit(lease, fingerprint)

    async def ended_of(self, job_ids: Sequence[str]) -> set[str]:
        """Those of the jobs that have ended."""
        return await ended_ids(self._lanes, job_ids)

    async def strike(
        self, lease: Lease, accused: Sequence[Accused], problem: str, *, has_crashed: bool = True
    ) -> int:
        """The worker of the lease has crashed, or its lane has, and any of these jobs may be why.

        Each that is claimed becomes a suspect; returns how many it was. One that was alone
        twice ends, with reason "error" and ``problem``. Where it is not known that it
        ``has_crashed`` (it was killed, hangs, or is cut off) this accuses only who is there
        the third time without having got any further.
        """
        return await self._suspicion.strike(lease, accused, problem, has_crashed=has_crashed)

    async def absolve(self, job_ids: Sequence[str]) -> None:
        """These jobs have shown that they break nothing: they are suspects no more."""
        await self._suspicion.absolve(job_ids)

    async def fail(self, job_id: str, problem: str) -> bool:
        """Ends a job that can't be run with reason "error". False where it had ended."""
        return await self._ending.fail(job_id, problem)

    async def commit(
        self, lease: Lease, rows: Sequence[CommitRow], cached: CachedTokens = NOT_KNOWN
    ) -> list[RowAnswer]:
        """Writes a step's rows in one call; an answer for each. Committing again is harmless.

        A row of a job whose deadline has passed is answered ENDED: its output has ended so. What
        was ``cached`` is noted with an output's first row, once for a job.
        """
        return await self._committing.commit(lease, rows, cached)

    async def requeue(self, lease: Lease, job_ids: Sequence[str]) -> int:
        """Gives jobs back to where they stood; ids that are not claimed are ignored."""
        return await self._claiming.requeue(lease, job_ids)

    async def outgrow(self, lease: Lease, job_id: str, need: int) -> None:
        """Gives a job back for a worker that has room for so many tokens; not claimed: ignored."""
        await self._claiming.outgrow(lease, job_id, need)

    async def claimed(self, lease: Lease) -> frozenset[str]:
        """The ids of the jobs that are claimed under the lease, as Redis has it."""
        return await self._claiming.claimed(lease)

    # Everyone's.

    async def sweep(self) -> Sweep:
        """Ends overdue jobs, forgets ended ones beyond their bounds, frees dead leases.

        Also ranks anew what an adopted order has left, forgets tenants beyond a bound, and
        ends jobs that break lanes, or that no worker can run.
        Bounded, and safe to run anywhere any time; once a second in some process is meant.
        """
        await self._servers.look()
        await self._common_servers.look()
        await self._mending.look()
        swept = await self._ending.sweep()
        await self._suspicion.sweep()
        await self._stranding.sweep()
        await self._ranking.sweep()
        return swept

    @property
    def verdicts(self) -> Verdicts:
        """What came of the crashes of this process's workers."""
        return self._suspicion.verdicts

    @property
    def call_s(self) -> Mapping[str, Histogram]:
        """How long calls to Redis took, those for clients and those of lanes."""
        return {"api": self._shard.link.call_s, "lane": self._lanes.link.call_s}

    @property
    def commit_s(self) -> Histogram:
        """How long commits took, from a step's rows to their answers."""
        return self._committing.commit_s
