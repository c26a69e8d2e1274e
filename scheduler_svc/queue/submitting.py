"""What stores jobs, each once for an idempotency key."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from scheduler_svc.queue.codec import RECORD_ERRORS, encode_spec
from scheduler_svc.queue.kept import as_it_was, submitted_with
from scheduler_svc.queue.keys import idempotency_digest
from scheduler_svc.queue.link import Full
from scheduler_svc.queue.quota import Quota, Standing, refusal
from scheduler_svc.queue.ranking import Ranking
from scheduler_svc.queue.recent import RecentJobs, StoredJob
from scheduler_svc.queue.resp import Argument
from scheduler_svc.queue.shard import Shard
from scheduler_svc.queue.together import Together
from stepserve.protocol.errors import Exhausted, InvalidRequest
from stepserve.protocol.job import JobSpec
from stepserve.protocol.packed import pack
from stepserve.protocol.sampling import MAX_OUTPUTS

log = logging.getLogger(__name__)

# Of ``needed_s``: the job is taken, also where its deadline is not to be met.
WHATEVER = -1.0
# Also where its key's bounds are reached, against which it counts all the same.
TAKEN_BEFORE = -2.0
_RETRY_AFTER_MS = 1000
_MAX_RETRY_AFTER_MS = 60_000
_OTHER_REQUEST, _QUOTA, _LATE = 2, -1, -2
# Where these stand among the script's arguments.
_MOST_QUEUED, _DEADLINE, _EDGE, _NEEDED = 1, 2, 12, 18
_UNBOUNDED = 2**53
# A deadline that has as good as passed.
SOON_S = 0.001


@dataclass(frozen=True, slots=True)
class Submitted:
    """``existed``: the idempotency key matched this job, which was there before.

    ``spec``: what was stored, where nothing was there before. ``standing``: what is left then
    of a quota that has bounds.
    """

    job_id: str
    existed: bool
    spec: JobSpec | None = None
    standing: Standing | None = None


class Submitting:
    """Stores jobs of one shard, ranked in the order that is stored."""

    def __init__(self, shard: Shard, ranking: Ranking) -> None:
        self._shard = shard
        self._ranking = ranking
        self._recent = RecentJobs()
        self._together = Together(shard, "submit")

    async def submit(
        self,
        spec: JobSpec,
        request_digest: str,
        edge: str = "",
        needed_s: float = WHATEVER,
        quota: Quota | None = None,
    ) -> Submitted:
        if not spec.job_id or "\0" in spec.job_id or not 1 <= spec.sampling.n <= MAX_OUTPUTS:
            raise ValueError(f"a job needs an id without NUL and 1 to {MAX_OUTPUTS} outputs")
        try:
            call = self._call(spec, request_digest, edge, quota or Quota(""), needed_s)
            answer = await self._store(spec.job_id, *call)
            if answer == b"order":
                await self._ranking.adopt()
                answer = await self._store(spec.job_id, *call)
        except Full as error:
            raise Exhausted("Redis has no memory left for another job", _RETRY_AFTER_MS) from error
        if answer is None:
            raise Exhausted("the queue is full", _RETRY_AFTER_MS)
        if answer[1] == _LATE:
            raise _late(spec.deadline_s, *map(float, answer[2:]))
        standing = _standing(answer, quota)
        if answer[1] == _QUOTA and quota and standing:
            raise refusal(quota, answer[2], float(answer[3]), standing)
        if answer[1] == _OTHER_REQUEST:
            problem = f"was used for another request, which is job {answer[0].decode()}"
            raise InvalidRequest("idempotency_key", problem)
        existed = answer[1] == 1
        return Submitted(answer[0].decode(), existed, None if existed else spec, standing)

    async def restore(self) -> int:
        """Store the last jobs again that are not there, with what is left of their deadlines.

        Returns how many were missing. They count against their keys as they did: that is lost too.
        One that its lane has stored again without what its edge keeps gets that. One that can't be
        stored keeps no other from it. Raises Full.
        """
        recent = self._recent.all()
        commands = [
            ("HSTRLEN", job.names[0], field) for _, job in recent for field in ("spec", "edge")
        ]
        known = await self._shard.link.each(commands) if commands else []
        num_missing = 0
        for (job_id, job), has_spec, has_edge in zip(recent, known[::2], known[1::2], strict=True):
            if has_spec and (has_edge or not job.args[_EDGE]):
                continue
            try:
                num_missing += await self._is_restored(job) and not has_spec
            except RECORD_ERRORS as error:
                log.error("job %s was lost, and can't be stored again: %s", job_id, error)
        return num_missing

    async def _is_restored(self, job: StoredJob) -> bool:
        """Store a job again, or what of it is missing."""
        args = [*job.args]
        if deadline_s := float(str(args[_DEADLINE])):
            args[_DEADLINE] = max(SOON_S, deadline_s - (time.monotonic() - job.stored_s))
        answer = await self._store_again(job.names, args)
        return isinstance(answer, list) and answer[1] == 0

    async def restore_claimed(self, spec: JobSpec, *, has_output: bool) -> bool:
        """Store a job again that was claimed, with all that its record had but its output.

        ``spec.deadline_s`` is from now. False where its client has another by the same key.
        """
        names, args = self._call(spec, *submitted_with(spec.record), TAKEN_BEFORE)
        args.extend(as_it_was(spec, has_output=has_output))
        answer = await self._store_again(names, args)
        if answer[1] == 0:
            self._recent.add(spec.job_id, names, args)
        return bool(answer[0].decode() == spec.job_id)

    async def _store_again(self, names: Sequence[str], args: Sequence[Argument]) -> Any:
        """Store what was accepted before, however full the queue is by now."""
        args = [*args]
        args[_MOST_QUEUED], args[_NEEDED] = _UNBOUNDED, TAKEN_BEFORE
        answer = await self._shard.run("submit", names, args, durable=True)
        if answer == b"order":  # a server that has nothing yet
            await self._ranking.adopt()
            answer = await self._shard.run("submit", names, args, durable=True)
        return answer

    def age(self, now_s: float) -> None:
        """What was stored some time before ``now_s`` (monotonic) is kept: it may be forgotten."""
        self._recent.expire(now_s)

    def forgotten(self, job_id: str) -> None:
        """It was dropped because somebody wanted it to be."""
        self._recent.drop(job_id)

    def _call(
        self, spec: JobSpec, request_digest: str, edge: str, quota: Quota, needed_s: float
    ) -> tuple[list[str], list[Argument]]:
        """Return the keys and the arguments of the script."""
        keys = self._shard.keys
        digest = idempotency_digest(spec.tenant, spec.idempotency_key)
        names = [
            keys.job(spec.job_id),
            keys.queue,
            keys.jobs,
            keys.deadlines,
            keys.bell,
            keys.rings,
            keys.order,
            keys.lengths,
            keys.counters,
            keys.vtime,
            keys.ended,
            keys.ahead,
            keys.pace,
            keys.stranded,
            keys.quotas,
            keys.suspects,
            *([keys.idem(digest)] if digest else []),
        ]
        args: list[Argument] = [
            spec.job_id,
            self._shard.limits.max_queued_jobs,
            spec.deadline_s,
            digest,
            spec.sampling.n,
            encode_spec(spec),
            pack(spec.prompt_token_ids),
            spec.tenant,
            spec.priority,
            spec.sampling.max_tokens,
            request_digest,
            spec.num_tokens_needed,
            edge,
            quota.key_id,
            quota.weight,
            quota.requests_per_minute,
            quota.tokens_per_minute,
            quota.max_jobs,
            needed_s,
        ]
        return names, args

    async def _store(self, job_id: str, names: list[str], args: list[Argument]) -> Any:
        answer = await self._together.run(names, args)
        if isinstance(answer, list) and answer[1] == 0:
            self._recent.add(job_id, names, args)
        return answer

    async def stored_for(
        self, tenant: str, idempotency_key: str, request_digests: Collection[str]
    ) -> str:
        digest = idempotency_digest(tenant, idempotency_key)
        stored = digest and await self._shard.link.call("GET", self._shard.keys.idem(digest))
        job_id, _, of_request = (stored or b"").decode().partition("\0")
        return job_id if of_request in ("", *request_digests) else ""

    async def is_known(self, tenant: str, idempotency_key: str) -> bool:
        digest = idempotency_digest(tenant, idempotency_key)
        return bool(digest and await self._shard.link.call("EXISTS", self._shard.keys.idem(digest)))


def _standing(answer: Any, quota: Quota | None) -> Standing | None:
    """What an answer tells of the quota at its end, if it does."""
    if quota is None or len(answer) < 4:
        return None
    return Standing(quota, float(answer[-2]), float(answer[-1]))


def _late(deadline_s: float, wait_s: float, run_s: float) -> Exhausted:
    """What to say to a job that would not be in time, and when it would if nobody else came."""
    late_ms = int(1000 * (wait_s + run_s - deadline_s)) + 1
    problem = (
        f"deadline_s: up to {wait_s:.3g} s of waiting and then about {run_s:.3g} s are to be "
        f"expected now, {deadline_s:.3g} s are given"
    )
    return Exhausted(problem, min(max(late_ms, _RETRY_AFTER_MS), _MAX_RETRY_AFTER_MS))
