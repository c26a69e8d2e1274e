"""What writes a step's rows, in one call."""

from __future__ import annotations

import time
from collections.abc import Sequence

from scheduler_svc.queue.codec import encode_finish
from scheduler_svc.queue.lease import Lease
from scheduler_svc.queue.link import CALL_S
from scheduler_svc.queue.rows import NOT_KNOWN, CachedTokens, RowAnswer, RowEncoder, decode_answers
from scheduler_svc.queue.shard import Shard
from stepserve.metrics.histogram import Histogram
from stepserve.protocol.job import DEADLINE_PASSED, CommitRow

_DEADLINE_PASSED = encode_finish(DEADLINE_PASSED)


class Committing:
    """Commits of one process's lanes."""

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        self._rows = RowEncoder(shard.keys)
        # How long commits took that were done.
        self.commit_s = Histogram(CALL_S)

    async def commit(
        self, lease: Lease, rows: Sequence[CommitRow], cached: CachedTokens = NOT_KNOWN
    ) -> list[RowAnswer]:
        if not rows:
            return []
        begun_s = time.perf_counter()
        keys = self._shard.keys
        names, args = self._rows.encode(rows, cached)
        answer = await self._shard.run(
            "commit",
            [
                keys.lease(lease.worker_id),
                keys.claims(lease.worker_id),
                keys.deadlines,
                keys.ended,
                keys.bell,
                keys.rings,
                keys.lengths,
                keys.counters,
                keys.unweighed,
                keys.queue,
                keys.stranded,
                keys.pace,
                keys.quotas,
                names,
            ],
            [lease.worker_id, lease.epoch, len(keys.job_prefix), _DEADLINE_PASSED, *args],
            durable=True,
        )
        self.commit_s.observe(time.perf_counter() - begun_s)
        return decode_answers(lease.checked(answer))
