"""The spans of the jobs that one lane runs: queued, prefill, decode, commit."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from scheduler_svc.core.events import (
    Adopted,
    Cancelled,
    Claimed,
    Commit,
    Committed,
    Effect,
    Event,
    Reported,
    Send,
)
from scheduler_svc.core.scheduler import Core
from stepserve.protocol.job import ClaimedJob, CommitRow, JobSpec
from stepserve.protocol.step import Admission, ResidentSequence, StepReport

if TYPE_CHECKING:
    from scheduler_svc.spans.tracing import Piece, Tracing

OutputKey = tuple[str, int]
QUEUED, PREFILL, DECODE, COMMIT = "queued", "prefill", "decode", "commit"


class Observer(Protocol):
    """What a lane tells of its turns."""

    def observe(self, events: Sequence[Event], effects: Sequence[Effect], core: Core, /) -> None:
        """Take note of a turn."""


class Clock(Protocol):
    """Redis's time, in seconds since the epoch, as well as it is known here."""

    @property
    def redis_now_s(self) -> float:
        """What it is now."""


@contextmanager
def spans_of_lane(
    tracing: Tracing | None, worker_id: str, clock: Clock
) -> Iterator[tuple[Observer, ...]]:
    """Yield what traces the jobs of a lane for the time of the block; nothing where it is off."""
    if tracing is None:
        yield ()
        return
    spans = LaneSpans(tracing, worker_id, clock)
    try:
        yield (spans,)
    finally:
        spans.leave()


@dataclass(slots=True, eq=False)
class _Output:
    """One output of a job: the span that it is in, and what that will say at its end."""

    spec: JobSpec
    index: int
    piece: Piece
    phase: str
    sequence_id: int = 0
    num_tokens: int = 0
    num_preemptions: int = 0


class LaneSpans:
    """Observes one lane's turns. What ends in another process begins there anew: each span is of
    one lane, all of a job are of one trace.
    """

    def __init__(self, tracing: Tracing, worker_id: str, clock: Clock) -> None:
        self._tracing = tracing
        self._worker_id = worker_id
        self._clock = clock
        self._outputs: dict[OutputKey, _Output] = {}
        self._by_id: dict[int, _Output] = {}
        # Those at the worker that wait for a token, the first one here.
        self._awaiting: set[int] = set()
        self._commits: dict[int, list[Piece]] = {}

    def observe(self, events: Sequence[Event], effects: Sequence[Effect], core: Core, /) -> None:
        """Take note of a turn."""
        # Most reports end nothing: their rows are not looked at one by one.
        has_ends = False
        for event in events:
            has_ends |= self._take(event)
        for effect in effects:
            if isinstance(effect, Send):
                self._released(effect.command.release_ids, core)
                self._admitted(effect.command.admissions)
            elif has_ends and isinstance(effect, Commit):
                self._finished(effect.step, effect.rows)

    def leave(self) -> None:
        """The lane is over; what it holds goes on elsewhere, in spans of its own."""
        for output in list(self._outputs.values()):
            self._end(output, {"stepserve.left": True})
        for pieces in self._commits.values():
            for piece in pieces:
                piece.end({"stepserve.left": True})
        self._commits.clear()

    def _take(self, event: Event) -> bool:
        """Take note of an event; whether outputs may end by it."""
        match event:
            case Reported(report, stops):
                self._streamed(report)
                return bool(report.finished or stops)
            case Claimed(jobs):
                self._claimed(jobs)
            case Adopted(jobs=jobs, kept=kept):
                self._claimed(jobs)
                self._kept(kept)
            case Committed(step, ended):
                for piece in self._commits.pop(step, ()):
                    piece.end()
                self._gone(ended)
                return False
            case Cancelled(job_ids):
                gone = frozenset(job_ids)
                self._gone([key for key in self._outputs if key[0] in gone])
                return False
        return True

    def _claimed(self, jobs: Iterable[ClaimedJob]) -> None:
        for job in jobs:
            waited_s = max(0.0, self._clock.redis_now_s - job.spec.arrival_s)
            arrived_ns = time.time_ns() - int(waited_s * 1e9)
            for log in job.outputs:
                key = job.spec.job_id, log.index
                if log.finish is not None or key in self._outputs:
                    continue
                # One that has tokens waited once before: since when it does again nobody noted.
                at_ns = None if log.token_ids else arrived_ns
                piece = self._begin(job.spec, log.index, QUEUED, at_ns)
                num_tokens = log.offset + len(log.token_ids)
                self._outputs[key] = _Output(job.spec, log.index, piece, QUEUED, 0, num_tokens)

    def _kept(self, residents: Iterable[ResidentSequence]) -> None:
        for resident in residents:
            if output := self._outputs.get((resident.job_id, resident.index)):
                phase = DECODE if output.num_tokens else PREFILL
                output.piece.end({"stepserve.adopted": True})
                self._at_worker(output, resident.sequence_id, phase, awaits=not output.num_tokens)

    def _released(self, sequence_ids: Iterable[int], core: Core) -> None:
        """Of those that leave the worker some have not ended: they wait again."""
        for sequence_id in sequence_ids:
            output = self._by_id.get(sequence_id)
            if output is None or (output.spec.job_id, output.index) not in core.live:
                continue
            output.num_preemptions += 1
            self._close(output, {"stepserve.preempted": True})
            del self._by_id[sequence_id]
            self._awaiting.discard(sequence_id)
            output.sequence_id, output.phase = 0, QUEUED
            output.piece = self._begin(output.spec, output.index, QUEUED)

    def _admitted(self, admissions: Iterable[Admission]) -> None:
        for admission in admissions:
            output = self._outputs.get((admission.job_id, admission.index))
            if output is None:
                continue
            output.piece.end()
            self._at_worker(output, admission.sequence_id, PREFILL, awaits=True)
            cached = {
                "stepserve.tokens.cached": admission.num_computed,
                "stepserve.tokens.known": len(admission.token_ids),
            }
            output.piece.note(cached)

    def _at_worker(self, output: _Output, sequence_id: int, phase: str, *, awaits: bool) -> None:
        self._by_id.pop(output.sequence_id, None)
        self._awaiting.discard(output.sequence_id)
        output.sequence_id, output.phase = sequence_id, phase
        output.piece = self._begin(output.spec, output.index, phase)
        self._by_id[sequence_id] = output
        if awaits:
            self._awaiting.add(sequence_id)

    def _streamed(self, report: StepReport) -> None:
        if not self._awaiting:
            return
        for sequence_id in self._awaiting.intersection(report.token_sequence_ids):
            self._awaiting.discard(sequence_id)
            output = self._by_id[sequence_id]
            output.piece.end()
            output.phase = DECODE
            output.piece = self._begin(output.spec, output.index, DECODE)

    def _finished(self, step: int, rows: Iterable[CommitRow]) -> None:
        for row in rows:
            output = self._outputs.get((row.job_id, row.index))
            if row.finish is None or output is None:
                continue
            output.num_tokens = row.offset + len(row.token_ids)
            if row.finish.reason == "error":
                output.piece.failed("error")
            self._end(output, {"gen_ai.response.finish_reasons": [row.finish.reason]})
            self._commits.setdefault(step, []).append(
                self._begin(output.spec, output.index, COMMIT)
            )

    def _gone(self, keys: Iterable[OutputKey]) -> None:
        """Others ended these: a client, mostly."""
        for key in keys:
            if output := self._outputs.get(key):
                self._end(output, {"gen_ai.response.finish_reasons": ["cancelled"]})

    def _end(self, output: _Output, attributes: dict[str, bool | list[str]]) -> None:
        self._outputs.pop((output.spec.job_id, output.index), None)
        self._by_id.pop(output.sequence_id, None)
        self._awaiting.discard(output.sequence_id)
        self._close(output, attributes)

    def _close(self, output: _Output, attributes: dict[str, bool | list[str]]) -> None:
        output.piece.end(
            {
                "gen_ai.usage.input_tokens": len(output.spec.prompt_token_ids),
                "gen_ai.usage.output_tokens": output.num_tokens,
                "stepserve.preemptions": output.num_preemptions,
                **attributes,
            }
        )

    def _begin(self, spec: JobSpec, index: int, name: str, at_ns: int | None = None) -> Piece:
        from scheduler_svc.spans.tracing import job_attributes

        told = {
            **job_attributes(spec),
            "stepserve.output.index": index,
            "stepserve.worker": self._worker_id,
        }
        return self._tracing.begin(name, spec.trace, told, at_ns)
