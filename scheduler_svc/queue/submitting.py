"""What stores jobs, each once for an idempotency key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from scheduler_svc.queue.codec import encode_spec
from scheduler_svc.queue.keys import idempotency_digest
from scheduler_svc.queue.link import Full
from scheduler_svc.queue.quota import Quota, Standing, refusal
from scheduler_svc.queue.ranking import Ranking
from scheduler_svc.queue.shard import Shard
from stepserve.protocol.errors import Exhausted, InvalidRequest
from stepserve.protocol.job import JobSpec
from stepserve.protocol.packed import pack
from stepserve.protocol.sampling import MAX_OUTPUTS

_RETRY_AFTER_MS = 1000
_OTHER_REQUEST = 2


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

    async def submit(
        self, spec: JobSpec, request_digest: str, edge: str = "", quota: Quota | None = None
    ) -> Submitted:
        if not spec.job_id or "\0" in spec.job_id or not 1 <= spec.sampling.n <= MAX_OUTPUTS:
            raise ValueError(f"a job needs an id without NUL and 1 to {MAX_OUTPUTS} outputs")
        try:
            answer = await self._store(spec, request_digest, edge, quota)
            if answer == b"order":
                await self._ranking.adopt()
                answer = await self._store(spec, request_digest, edge, quota)
        except Full as error:
            raise Exhausted("Redis has no memory left for another job", _RETRY_AFTER_MS) from error
        if answer is None:
            raise Exhausted("the queue is full", _RETRY_AFTER_MS)
        standing = _standing(answer, quota)
        if answer[0] == b"quota" and quota and standing:
            raise refusal(quota, answer[1], float(answer[2]), standing)
        if answer[1] == _OTHER_REQUEST:
            problem = f"was used for another request, which is job {answer[0].decode()}"
            raise InvalidRequest("idempotency_key", problem)
        existed = answer[1] == 1
        return Submitted(answer[0].decode(), existed, None if existed else spec, standing)

    async def _store(
        self, spec: JobSpec, request_digest: str, edge: str, quota: Quota | None
    ) -> Any:
        keys, quota = self._shard.keys, quota or Quota("")
        digest = idempotency_digest(spec.tenant, spec.idempotency_key)
        return await self._shard.run(
            "submit",
            [
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
                keys.quotas,
                *([keys.idem(digest)] if digest else []),
            ],
            [
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
            ],
            durable=True,
        )

    async def stored_for(self, tenant: str, idempotency_key: str, request_digest: str) -> str:
        digest = idempotency_digest(tenant, idempotency_key)
        stored = digest and await self._shard.link.call("GET", self._shard.keys.idem(digest))
        job_id, _, of_request = (stored or b"").decode().partition("\0")
        return job_id if of_request == request_digest else ""

    async def is_known(self, tenant: str, idempotency_key: str) -> bool:
        digest = idempotency_digest(tenant, idempotency_key)
        return bool(digest and await self._shard.link.call("EXISTS", self._shard.keys.idem(digest)))


def _standing(answer: Any, quota: Quota | None) -> Standing | None:
    """What an answer tells of the quota at its end, if it does."""
    if quota is None or len(answer) < 4:
        return None
    return Standing(quota, float(answer[-2]), float(answer[-1]))
