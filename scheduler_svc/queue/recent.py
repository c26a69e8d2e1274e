"""What was written of jobs of late, so that it can be written again where that was lost."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from scheduler_svc.queue.resp import Argument

# Longer than a replica that is to be promoted may be behind (docs/redis.md), or an fsync late.
REMEMBERED_S = 10.0
MAX_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class StoredJob:
    """A call of a script that was answered at ``stored_s`` (monotonic)."""

    names: Sequence[str]
    args: Sequence[Argument]
    stored_s: float

    @property
    def size_bytes(self) -> int:
        return sum(len(arg) for arg in self.args if isinstance(arg, str | bytes))


class RecentJobs:
    """Jobs of this process by id, the oldest first; bounded in bytes, and in time by ``expire``.

    Time is when Redis was last seen to have lost nothing: what was stored last before an outage
    is there after it, whatever is stored before anybody has looked.
    """

    def __init__(self) -> None:
        self._jobs: OrderedDict[str, StoredJob] = OrderedDict()
        self._num_bytes = 0

    def __len__(self) -> int:
        return len(self._jobs)

    def add(self, job_id: str, names: Sequence[str], args: Sequence[Argument]) -> None:
        """It was stored now."""
        self.drop(job_id)
        self._jobs[job_id] = job = StoredJob(names, args, time.monotonic())
        self._num_bytes += job.size_bytes
        while self._num_bytes > MAX_BYTES:
            self.drop(next(iter(self._jobs)))

    def expire(self, now_s: float) -> None:
        """Forget what was stored so long before ``now_s``, when Redis had lost nothing."""
        while self._oldest_s < now_s - REMEMBERED_S:
            self.drop(next(iter(self._jobs)))

    def drop(self, job_id: str) -> None:
        """Nobody wants it any more."""
        if (job := self._jobs.pop(job_id, None)) is not None:
            self._num_bytes -= job.size_bytes

    def all(self) -> list[tuple[str, StoredJob]]:
        return list(self._jobs.items())

    @property
    def _oldest_s(self) -> float:
        return next(iter(self._jobs.values())).stored_s if self._jobs else math.inf
