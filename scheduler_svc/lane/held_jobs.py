"""The jobs that a lane holds, from the claim until all they came to is known to be in Redis."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from scheduler_svc.core.events import Cancelled, Commit, Committed, Effect, Event
from scheduler_svc.core.scheduler import Core
from scheduler_svc.lane.remembered import RememberedOutput
from scheduler_svc.queue import with_cached, with_edge
from stepserve.protocol.job import ClaimedJob, CommitRow, JobSpec, OutputLog
from stepserve.protocol.step import StepCommand

OutputKey = tuple[str, int]


class HeldJobs:
    """What is known here of each job, in two stages.

    It is ``running`` for as long as the core may name it: what it asked for says whose text is
    searched, who may be late, and whose end to listen for. Its outputs are remembered until
    their last rows are in Redis, because a log that lost its tail (an AOF's last second, a
    failover) is written again from here.
    """

    def __init__(self) -> None:
        self._running: dict[str, JobSpec] = {}
        # Those that run no more, and whose last rows are not known to be in Redis.
        self._leaving: dict[str, JobSpec] = {}
        self._outputs: dict[OutputKey, RememberedOutput] = {}
        self._cached: dict[OutputKey, int] = {}

    @property
    def running(self) -> Mapping[str, JobSpec]:
        """The jobs that the core has, or is about to be told of; a view."""
        return self._running

    @property
    def cached(self) -> Mapping[OutputKey, int]:
        """Tokens of the prompt that were cached when an output was begun here; a view."""
        return self._cached

    def sent(self, command: StepCommand) -> None:
        """Note what is cached of the prompts of outputs that begin; what was before they were
        preempted stays.
        """
        for admission in command.admissions:
            key = admission.job_id, admission.index
            is_begun = len(admission.token_ids) > admission.num_prompt_tokens
            if key in self._outputs and not is_begun:
                self._cached.setdefault(key, admission.num_computed)

    @property
    def unwritten_ids(self) -> frozenset[str]:
        """Jobs whose outputs are remembered: not all their rows are known to be in Redis."""
        return frozenset(job_id for job_id, _ in self._outputs)

    @property
    def ids(self) -> frozenset[str]:
        return self.unwritten_ids | self._running.keys()

    def num_tokens(self, job_id: str) -> int:
        """How many tokens a job's outputs have that go on here, as far as they are remembered."""
        return sum(len(known) for (owner, _), known in self._outputs.items() if owner == job_id)

    def has_output(self, spec: JobSpec) -> bool:
        """Whether a job has any tokens; outputs that are not here any more have ended with some."""
        held = [known for (owner, _), known in self._outputs.items() if owner == spec.job_id]
        return len(held) < spec.sampling.n or any(map(len, held))

    @property
    def has_deadline(self) -> bool:
        return any(spec.deadline_s for spec in self._running.values())

    def take(self, jobs: Sequence[ClaimedJob]) -> None:
        """Jobs were claimed, with the output that they have.

        A queue that lost its last moments may give a job that is here: what is remembered
        of that is more than what came with it.
        """
        for job in jobs:
            self._running[job.spec.job_id] = job.spec
            for output in job.outputs:
                key = job.spec.job_id, output.index
                if output.finish is None and key not in self._outputs:
                    self._outputs[key] = known = RememberedOutput()
                    known.extend(output.token_ids, output.logprobs)

    @property
    def num_edge_bytes(self) -> int:
        """What edges keep of these jobs, as far as that is here."""
        specs = (*self._running.values(), *self._leaving.values())
        return sum(len(spec.record.get("edge", b"")) for spec in specs)

    def learn_edge(self, job_id: str, edge: str) -> None:
        """Keep what its edge keeps of a job, for whoever stores it again."""
        if (spec := self.spec_of(job_id)) is not None:
            self._keep(replace(spec, record=with_edge(spec.record, edge)))

    def _learn_cached(self, rows: Sequence[CommitRow]) -> None:
        """Keep what is about to be told of jobs that begin with these rows."""
        for row in rows:
            num_cached = self._cached.get((row.job_id, row.index)) if row.offset == 0 else None
            spec = self.spec_of(row.job_id) if num_cached is not None else None
            if spec is not None and num_cached is not None:
                self._keep(replace(spec, record=with_cached(spec.record, num_cached)))

    def _keep(self, spec: JobSpec) -> None:
        for specs in (self._running, self._leaving):
            if spec.job_id in specs:
                specs[spec.job_id] = spec

    def drop(self, events: Sequence[Event], effects: Sequence[Effect], core: Core) -> None:
        """Drop what the core let go of in this turn."""
        for event in events:
            if isinstance(event, Cancelled):
                self._stop(event.job_ids, core)
                self.forget(event.job_ids)
            elif isinstance(event, Committed):
                self._stop({job_id for job_id, _ in event.ended}, core)
        for effect in effects:
            if isinstance(effect, Commit):
                self._stop({row.job_id for row in effect.rows if row.finish is not None}, core)

    def _stop(self, job_ids: Iterable[str], core: Core) -> None:
        """These run no more, unless another of their outputs goes on."""
        if job_ids:
            for job_id in frozenset(job_ids) - core.job_ids:
                spec = self._running.pop(job_id, None)
                if spec is not None and self._is_remembered(spec):
                    self._leaving[job_id] = spec

    def spec_of(self, job_id: str) -> JobSpec | None:
        """What a job asked for, until its last row is in Redis."""
        return self._running.get(job_id) or self._leaving.get(job_id)

    def forget(self, job_ids: Sequence[str]) -> None:
        """Drop the outputs of jobs that have ended without us."""
        self.written([key for key in self._outputs if key[0] in job_ids])

    def written(self, keys: Iterable[OutputKey]) -> None:
        """These outputs have ended in Redis: nothing of them will be asked for again."""
        for key in keys:
            self._outputs.pop(key, None)
            self._cached.pop(key, None)
            spec = self._leaving.get(key[0])
            if spec is not None and not self._is_remembered(spec):
                del self._leaving[key[0]]

    def _is_remembered(self, spec: JobSpec) -> bool:
        return any((spec.job_id, index) in self._outputs for index in range(spec.sampling.n))

    def remember(self, rows: Sequence[CommitRow]) -> None:
        """Take note of what is about to be written, once or again."""
        job_ids, indexes, offsets, token_ids, logprobs, _ = zip(*rows, strict=True)
        if self._cached and 0 in offsets:
            self._learn_cached(rows)
        outputs = map(self._outputs.get, zip(job_ids, indexes, strict=True))
        # Once for each row of each step.
        for known, offset, new_ids, entries in zip(
            outputs, offsets, token_ids, logprobs, strict=True
        ):
            if known is None:  # The job ended without us; its rows will be ignored.
                continue
            num_known = len(known.token_ids)
            if num_known == offset and len(new_ids) == 1 and not entries:
                known.token_ids.append(new_ids[0])
                continue
            # A commit that is tried again finds its tokens remembered already.
            num_new = offset + len(new_ids) - num_known
            if 0 < num_new <= len(new_ids):
                known.extend(new_ids[-num_new:], entries[-num_new:])

    def lost_tail(self, row: CommitRow, length: int) -> OutputLog | None:
        """Return what a log of ``length`` tokens lacks up to the row's end; None if unknown."""
        known = self._outputs.get((row.job_id, row.index))
        if known is None or len(known) < row.offset + len(row.token_ids):
            return None
        return known.since(length)
