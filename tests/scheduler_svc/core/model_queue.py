"""A job queue in memory that compares every committed token with the job's lone run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from scheduler_svc.suspects import GUILTY, next_trial, struck
from stepserve.protocol.job import ClaimedJob, CommitRow, Finish, JobSpec, OutputLog
from stepserve.protocol.sampling import Sampling
from tests.scheduler_svc.core.model_worker import NOT_FINITE, end_of, logprobs_of, next_token

Key = tuple[str, int]
# The message of an output whose text could not be made.
CURSED = "its text can't be searched for stop strings: Curse"


@dataclass(frozen=True)
class Curse:
    """Where a job breaks what runs it: in its admission, or with its token at ``offset``."""

    stage: Literal["vetting", "planning", "absorbing", "text", "commit"]
    offset: int = 0


def rank_of(spec: JobSpec) -> float:
    """As the priority policy would have it, but for the estimate."""
    return spec.arrival_s - 2.0 * spec.priority


def is_stop_string(spec: JobSpec, token_id: int) -> bool:
    """Every stop string here is one token's."""
    return str(token_id) in spec.sampling.stop


def lone_run(spec: JobSpec, index: int, max_context: int) -> tuple[list[int], Finish]:
    """Return the output of the job when nothing else runs and nothing happens."""
    params = spec.sampling
    sampling = Sampling(
        max_tokens=params.max_tokens, seed=params.seed, stop_token_ids=params.stop_token_ids
    )
    num_prompt_tokens = len(spec.prompt_token_ids)
    token_ids = list(spec.prompt_token_ids)
    while len(token_ids) < max_context:
        token_id = next_token(token_ids, index, sampling)
        if token_id == NOT_FINITE:
            return token_ids[num_prompt_tokens:], Finish("error")
        token_ids.append(token_id)
        output = token_ids[num_prompt_tokens:]
        if is_stop_string(spec, token_id):
            return output, Finish("stop", text_bytes=len(output) - 1)
        if reason := end_of(token_ids, num_prompt_tokens, sampling, max_context):
            return output, Finish(reason.name.lower())
    return token_ids[num_prompt_tokens:], Finish("length")


class ModelQueue:
    """What Redis would hold. ``max_context`` is that of every worker it will see."""

    def __init__(self, max_context: int) -> None:
        self._max_context = max_context
        self._specs: dict[str, JobSpec] = {}
        self._lone: dict[Key, tuple[list[int], Finish]] = {}
        self._logs: dict[Key, list[int]] = {}
        self._finishes: dict[Key, Finish] = {}
        self._queued: list[str] = []
        self._claimed: set[str] = set()
        self._strikes: dict[str, int] = {}
        self.curses: dict[str, Curse] = {}

    def submit(self, spec: JobSpec, num_outputs: Mapping[int, int]) -> None:
        """Queue the job with up to so many of its output tokens, by index, done already.

        An output that stops with its last token has the end in its log too: they are
        committed together.
        """
        self._specs[spec.job_id] = spec
        for index in range(spec.sampling.n):
            key = spec.job_id, index
            tokens, finish = self._lone[key] = lone_run(spec, index, self._max_context)
            self._logs[key] = tokens[: num_outputs.get(index, 0)]
            if finish.reason == "stop" and self._logs[key] == tokens:
                self._finishes[key] = finish
        if not self.has_ended(spec.job_id):
            self._queued.append(spec.job_id)

    def spec(self, job_id: str) -> JobSpec:
        return self._specs[job_id]

    @property
    def unended(self) -> list[str]:
        return [job_id for job_id in self._specs if not self.has_ended(job_id)]

    @property
    def num_queued(self) -> int:
        return len(self._queued)

    def has_ended(self, job_id: str) -> bool:
        return all(key in self._finishes for key in self._keys(job_id))

    def claim(self, max_jobs: int, max_rank: float) -> tuple[ClaimedJob, ...]:
        waiting = sorted(self._queued, key=lambda job_id: rank_of(self._specs[job_id]))
        allowed = [job_id for job_id in waiting if rank_of(self._specs[job_id]) < max_rank]
        return self._take([i for i in allowed if i not in self._strikes][:max_jobs])

    @property
    def has_suspects(self) -> bool:
        return any(i in self._strikes for i in self._queued)

    def claim_suspects(self, max_jobs: int) -> tuple[ClaimedJob, ...]:
        """Give those to be tried next, to a lane that holds nothing."""
        if any(not self.has_ended(job_id) for job_id in self._claimed):
            return ()
        waiting = {i: self._strikes[i] for i in self._queued if i in self._strikes}
        return self._take(next_trial(waiting)[:max_jobs])

    def strike(self, tried: frozenset[str]) -> None:
        """The lane has failed: blame those that are tried, or all, and queue them again."""
        held = [i for i in self._claimed if not self.has_ended(i)]
        for job_id in tried.intersection(held) or held:
            strikes = struck(self._strikes.get(job_id, 0), is_alone=len(held) == 1)
            self._strikes[job_id] = strikes
            if strikes == GUILTY:
                assert job_id in self.curses, "an innocent job is ended"
                self.fail(job_id)
        self.requeue(list(self._claimed))

    def inherit(self) -> tuple[ClaimedJob, ...]:
        """What is claimed, with its logs, for the lane that comes next."""
        return tuple(self._job(i) for i in sorted(self._claimed) if not self.has_ended(i))

    def absolve(self, job_ids: Iterable[str]) -> None:
        for job_id in job_ids:
            self._strikes.pop(job_id, None)

    def fail(self, job_id: str) -> None:
        assert job_id in self.curses, "an innocent job is ended"
        for key in self._keys(job_id):
            self._finishes.setdefault(key, Finish("error"))

    def _take(self, job_ids: list[str]) -> tuple[ClaimedJob, ...]:
        self._queued = [job_id for job_id in self._queued if job_id not in job_ids]
        self._claimed.update(job_ids)
        return tuple(map(self._job, job_ids))

    def _job(self, job_id: str) -> ClaimedJob:
        outputs = tuple(
            OutputLog(key[1], tuple(self._logs[key]), finish=self._finishes.get(key))
            for key in self._keys(job_id)
        )
        strikes = self._strikes.get(job_id, 0)
        return ClaimedJob(self._specs[job_id], outputs, rank_of(self._specs[job_id]), strikes)

    def requeue(self, job_ids: Iterable[str]) -> None:
        """Take jobs back, each once, unless they have ended meanwhile."""
        for job_id in job_ids:
            assert job_id in self._claimed, "given back and not claimed"
            self._claimed.remove(job_id)
            if not self.has_ended(job_id):
                self._queued.insert(0, job_id)

    def cancel(self, job_id: str) -> None:
        for key in self._keys(job_id):
            self._finishes.setdefault(key, Finish("cancelled"))
        if job_id in self._queued:
            self._queued.remove(job_id)

    def commit(self, rows: Iterable[CommitRow]) -> tuple[Key, ...]:
        """Append the rows; return the outputs that had ended before."""
        ended = []
        for row in rows:
            assert row.job_id in self._claimed, "a row of a job that is not claimed"
            key = row.job_id, row.index
            if key in self._finishes:
                ended.append(key)
            else:
                self._append(key, row)
        return tuple(ended)

    def check_all_ended(self) -> None:
        """Assert that every output is the lone run's, or was cancelled within it."""
        for key, (tokens, finish) in self._lone.items():
            has_failed = self._finishes[key].reason == "error" and key[0] in self.curses
            if not has_failed and self._finishes[key].reason not in ("cancelled", "deadline"):
                assert self._logs[key] == tokens, "not the lone run"
                assert self._finishes[key].reason == finish.reason, "ended for another reason"

    def _append(self, key: Key, row: CommitRow) -> None:
        tokens, finish = self._lone[key]
        log = self._logs[key]
        assert row.offset == len(log), "not the next offset"
        log.extend(row.token_ids)
        assert log == tokens[: len(log)], "not what the lone run gives"
        spec = self._specs[row.job_id]
        expected = [
            logprobs_of(token_id, offset, spec.prompt_token_ids, spec.sampling)
            for offset, token_id in enumerate(row.token_ids, row.offset)
            if spec.sampling.logprobs >= 0
        ]
        assert list(row.logprobs) == expected, "another token's log-probability"
        if row.finish is not None and row.finish.reason == "deadline":
            assert self._specs[row.job_id].deadline_s, "late without a deadline"
            self._finishes[key] = row.finish
        elif row.finish is not None and row.finish.message == CURSED:
            assert row.job_id in self.curses, "an innocent output is ended"
            self._finishes[key] = row.finish
        elif row.finish is not None:
            assert row.finish.reason == finish.reason, "ended for another reason"
            assert row.finish.text_bytes == finish.text_bytes, "cut elsewhere"
            assert log == tokens, "ended too early"
            self._finishes[key] = row.finish

    def _keys(self, job_id: str) -> list[Key]:
        return [(job_id, index) for index in range(self._specs[job_id].sampling.n)]
