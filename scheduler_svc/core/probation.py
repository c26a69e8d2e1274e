"""Suspects in a lane: they were there when one failed, and have to show that they were not why."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from stepserve.protocol.job import ClaimedJob, CommitRow


class Probation:
    """Suspects that are tried together; while it lasts, nobody is claimed beside them.

    What broke a lane came at most two flights of steps after the last token that was
    committed: the steps that were in flight, and those whose reports were not absorbed yet.
    A suspect whose outputs have ended or gone further than that, was not it. Of one whose rows
    are dropped nothing is shown: it may have been lost, and be about to begin again.
    """

    def __init__(self, max_steps_in_flight: int) -> None:
        self.num_tokens = 2 * max_steps_in_flight + 1
        self._left: dict[str, dict[int, int]] = {}
        self._dropped: set[str] = set()
        self._passed: list[str] = []

    @property
    def is_on(self) -> bool:
        """Whether a suspect has not shown it yet."""
        return bool(self._left)

    @property
    def job_ids(self) -> frozenset[str]:
        """The suspects that have not shown it yet."""
        return frozenset(self._left)

    def begin(self, jobs: Iterable[ClaimedJob]) -> None:
        """Of the jobs that were claimed, watch the suspects, if there are any."""
        for job in jobs:
            if job.strikes:
                live = [output.index for output in job.outputs if output.finish is None]
                self._left[job.spec.job_id] = dict.fromkeys(live, self.num_tokens)
                self._dropped.discard(job.spec.job_id)

    def written(self, rows: Iterable[CommitRow], dropped: Collection[tuple[str, int]]) -> None:
        """These rows are in Redis, but for those of ``dropped`` outputs (job id, index)."""
        if not self._left:
            return
        for row in rows:
            left = self._left.get(row.job_id, {})
            if row.index not in left:
                continue
            is_dropped = (row.job_id, row.index) in dropped
            left[row.index] -= len(row.token_ids)
            if is_dropped:
                self._dropped.add(row.job_id)
            if is_dropped or row.finish is not None or left[row.index] <= 0:
                del left[row.index]
            if not left:
                self._leave(row.job_id)

    def gone(self, job_ids: Collection[str]) -> None:
        """These jobs have ended without a row of ours."""
        for job_id in self._left.keys() & frozenset(job_ids):
            self._dropped.discard(job_id)
            self._leave(job_id)

    def passed(self) -> list[str]:
        """Return those who have shown it since this was last asked."""
        passed, self._passed = self._passed, []
        return passed

    def _leave(self, job_id: str) -> None:
        del self._left[job_id]
        if job_id not in self._dropped:
            self._passed.append(job_id)
        self._dropped.discard(job_id)
