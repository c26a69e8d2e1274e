"""Follows the outputs of one lane from claim to end, and notes how long each part took."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scheduler_svc.metrics.latencies import Latencies
from stepserve.protocol.job import ClaimedJob, CommitRow
from stepserve.protocol.step import Admission, ResidentSequence

OutputKey = tuple[str, int]


@dataclass(slots=True, eq=False)
class _Output:
    """When what happened, in seconds by our clock; 0: not yet."""

    arrived_s: float
    num_prompt_tokens: int
    # It had tokens when it was claimed: of its beginning nothing is known here.
    is_resumed: bool
    sequence_id: int = 0
    admitted_s: float = 0.0
    first_s: float = 0.0
    last_s: float = 0.0


class Outputs:
    """The outputs that one lane holds.

    What is done for a step is done for all its rows at once: of those that got a token in the
    step before, too, only the number counts.
    """

    def __init__(self, latencies: Latencies) -> None:
        self._latencies = latencies
        self._by_key: dict[OutputKey, _Output] = {}
        self._by_id: dict[int, _Output] = {}
        # Who got a token in the newest step, in its order and without, and when that was.
        self._streamed: Sequence[int] = ()
        self._streaming: frozenset[int] = frozenset()
        self._streamed_s = 0.0

    def __len__(self) -> int:
        return len(self._by_key)

    def claimed(self, jobs: Iterable[ClaimedJob], redis_epoch_s: float, now_s: float) -> None:
        """Jobs have come; ``redis_epoch_s`` is what Redis's clock said when ours said 0."""
        for job in jobs:
            # Never after now: that clock may have gone back, and no time is below 0.
            arrived_s = min(now_s, job.spec.arrival_s - redis_epoch_s)
            for log in job.outputs:
                if log.finish is None:
                    self._by_key.setdefault(
                        (job.spec.job_id, log.index),
                        _Output(
                            arrived_s,
                            len(job.spec.prompt_token_ids),
                            is_resumed=bool(log.token_ids),
                        ),
                    )

    def admitted(self, admissions: Iterable[Admission], now_s: float) -> None:
        """A step lets these in, for the first time or again."""
        told = self._latencies
        for admission in admissions:
            output = self._by_key.get((admission.job_id, admission.index))
            if output is None:
                continue
            self._by_id.pop(output.sequence_id, None)
            output.sequence_id = admission.sequence_id
            self._by_id[admission.sequence_id] = output
            if not output.admitted_s:
                output.admitted_s = now_s
                if not output.is_resumed:
                    told.num_prompt_tokens += output.num_prompt_tokens
                    told.queue_s.observe(now_s - output.arrived_s)

    def adopted(self, residents: Iterable[ResidentSequence], now_s: float) -> None:
        """These claimed ones are at the worker already, where another lane let them in."""
        for resident in residents:
            if output := self._by_key.get((resident.job_id, resident.index)):
                output.is_resumed, output.admitted_s = True, now_s
                output.sequence_id = resident.sequence_id
                self._by_id[resident.sequence_id] = output

    def streamed(self, sequence_ids: Sequence[int], now_s: float) -> None:
        """A step gave each of these a token."""
        told = self._latencies
        told.num_output_tokens += len(sequence_ids)
        if sequence_ids == self._streamed:  # As in most steps.
            told.between_tokens_s.observe(now_s - self._streamed_s, len(sequence_ids))
            self._streamed_s = now_s
            return
        now, before = frozenset(sequence_ids), self._streaming
        changed = now ^ before
        num_came = sum(sequence_id in now for sequence_id in changed)
        told.between_tokens_s.observe(now_s - self._streamed_s, len(now) - num_came)
        for sequence_id in changed:
            if (output := self._by_id.get(sequence_id)) is None:
                continue
            if sequence_id in now:
                self._began(output, now_s)
            else:
                output.last_s = self._streamed_s
        self._streamed, self._streaming, self._streamed_s = sequence_ids, now, now_s

    def _began(self, output: _Output, now_s: float) -> None:
        """It got a token and got none in the step before."""
        told = self._latencies
        if output.last_s:
            told.between_tokens_s.observe(now_s - output.last_s)
        elif not output.is_resumed:
            output.first_s = now_s
            told.first_token_s.observe(now_s - output.arrived_s)
            told.prefill_s.observe(now_s - output.admitted_s)

    def ended(self, rows: Iterable[CommitRow], now_s: float) -> None:
        """These are the rows of a commit; some say how their outputs ended."""
        told = self._latencies
        for row in rows:
            if row.finish is None or (output := self._drop((row.job_id, row.index))) is None:
                continue
            told.num_ended[row.finish.reason] += 1
            told.whole_s.observe(now_s - output.arrived_s)
            told.prompt_tokens.observe(output.num_prompt_tokens)
            told.output_tokens.observe(row.offset + len(row.token_ids))
            if output.first_s:
                told.decode_s.observe(now_s - output.first_s)

    def gone(self, keys: Iterable[OutputKey]) -> None:
        """These were ended by others: a client, mostly."""
        for key in keys:
            if self._drop(key) is not None:
                self._latencies.num_ended["cancelled"] += 1

    def jobs_gone(self, job_ids: Iterable[str]) -> None:
        """All outputs of these jobs were."""
        wanted = frozenset(job_ids)
        self.gone([key for key in self._by_key if key[0] in wanted])

    def _drop(self, key: OutputKey) -> _Output | None:
        output = self._by_key.pop(key, None)
        if output is not None:
            self._by_id.pop(output.sequence_id, None)
        return output
