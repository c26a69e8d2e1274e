"""A suspect in a lane: it was there when one failed, and has to show that it was not why."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from stepserve.protocol.job import ClaimedJob, CommitRow


class Probation:
    """One suspect at a time; while it lasts, nobody is claimed beside it.

    What broke a lane came at most two flights of steps after the last token that was
    committed: the steps that were in flight, and those whose reports were not absorbed yet.
    A suspect whose outputs have ended or gone further than that, was not it.
    """

    def __init__(self, max_steps_in_flight: int) -> None:
        self._num_tokens = 2 * max_steps_in_flight + 1
        self._left: dict[int, int] = {}
        self.job_id = ""

    @property
    def is_on(self) -> bool:
        """Whether a suspect has not shown it yet. ``job_id`` stays until the next one begins."""
        return bool(self._left)

    def begin(self, jobs: Iterable[ClaimedJob]) -> None:
        """Of the jobs that were claimed, watch the suspect, if there is one."""
        for job in jobs:
            if job.strikes:
                self.job_id = job.spec.job_id
                live = [output.index for output in job.outputs if output.finish is None]
                self._left = dict.fromkeys(live, self._num_tokens)

    def written(self, rows: Iterable[CommitRow], ended: Collection[tuple[str, int]]) -> None:
        """These rows are in Redis; those of ``ended`` outputs (job id, index) were ignored."""
        if not self._left:
            return
        for row in rows:
            if row.job_id == self.job_id and row.index in self._left:
                self._left[row.index] -= len(row.token_ids)
                has_ended = row.finish is not None or (row.job_id, row.index) in ended
                if has_ended or self._left[row.index] <= 0:
                    del self._left[row.index]

    def gone(self, job_ids: Collection[str]) -> None:
        """These jobs have ended without a row of ours."""
        if self.job_id in job_ids:
            self._left.clear()
