"""The stored order of a shard: adopting another one, and what its ranks are made of."""

from __future__ import annotations

import json
from itertools import chain

from scheduler_svc.order import Order
from scheduler_svc.queue.resp import Argument
from scheduler_svc.queue.shard import Shard
from stepserve.protocol.errors import Unavailable

_PAGE = 128
_MAX_PAGES = 256
_MAX_ATTEMPTS = 10
# So many tenants' counters and lengths are remembered.
_MAX_TENANTS = 4096


def holder_of(claim: bytes) -> str:
    """Return the worker of a job's claim, "worker:epoch"; of none, none."""
    return claim.decode().rpartition(":")[0]


class Ranking:
    """Ranks of one shard's jobs.

    One order is stored, and every submit ranks by it, whichever process sends it. When
    another is adopted, jobs that live have ranks that compare with nothing: they are
    marked in the same moment, and ranked anew page by page, which any process goes on
    with. While that lasts, a job may be taken before its turn, none is forgotten.
    """

    def __init__(self, shard: Shard, order: Order) -> None:
        self._shard = shard
        self._order = order

    async def adopt(self) -> None:
        """Store the order and rank anew; in bounded pages, the sweeps do what is left."""
        for _ in range(_MAX_ATTEMPTS):
            if await self._store() != b"moved":
                return await self._rerank()
        raise Unavailable("workers come and go too often to change the order of jobs now")

    async def estimate(self, tenant: str, max_tokens: int) -> float | None:
        """Return the expected length of an output, in tokens; None where nothing tells it."""
        keys = [self._shard.keys.lengths]
        answer = await self._shard.run("estimate", keys, [tenant, max_tokens])
        return None if answer is None else float(answer)

    async def sweep(self) -> None:
        """Go on ranking anew, and forget tenants beyond the bound."""
        keys = self._shard.keys
        names = [keys.counters, keys.vtime, keys.lengths, keys.quotas]
        await self._shard.run("prune", names, [_MAX_TENANTS])
        await self._rerank()

    async def _store(self) -> bytes | int:
        keys, order = self._shard.keys, self._order
        workers = [w.decode() for w in await self._shard.link.call("ZRANGE", keys.workers, 0, -1)]
        weights: dict[Argument, Argument] = {
            "wait": order.wait_weight,
            "remaining": order.remaining_weight,
            "priority": order.priority_weight,
            **{f"weight:{tenant}": weight for tenant, weight in order.tenant_weights.items()},
        }
        terms = json.dumps([order.policy, weights], sort_keys=True)
        answer: bytes | int = await self._shard.run(
            "adopt",
            [
                keys.order,
                keys.unranked,
                keys.counters,
                keys.vtime,
                keys.workers,
                keys.queue,
                *map(keys.claims, workers),
            ],
            [order.policy, terms, len(workers), *workers, *chain(*weights.items())],
            durable=True,
        )
        return answer

    async def _rerank(self) -> None:
        """Rank so many pages of jobs that have ranks of an earlier order."""
        keys, link = self._shard.keys, self._shard.link
        for _ in range(_MAX_PAGES):
            page = [i.decode() for i in await link.call("ZRANGE", keys.unranked, 0, _PAGE - 1)]
            if not page:
                return
            claims = await link.pipeline([("HGET", keys.job(i), "claim") for i in page])
            names = [keys.order, keys.unranked, keys.lengths, keys.counters, keys.vtime]
            names.append(keys.queue)
            args: list[Argument] = []
            for job_id, claim in zip(page, claims, strict=True):
                names += (keys.job(job_id), keys.claims(holder_of(claim or b"")))
                args += (job_id, claim or b"")
            await self._shard.run("rerank", names, args)
