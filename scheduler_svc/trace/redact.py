"""Takes out of a core's events and effects whatever a prompt could be recovered from.

What is kept of a job is named here, one by one; a field that is new is left out until it is.
So a replay shows as well what decisions do not depend on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from hashlib import blake2b

from scheduler_svc.core.events import (
    Adopted,
    Cancelled,
    Claimed,
    Commit,
    Committed,
    Effect,
    Event,
    Reported,
    Requeue,
    Send,
    StopHit,
    WorkerLost,
)
from scheduler_svc.trace.chain import Chain
from stepserve.protocol.job import ClaimedJob, CommitRow, Finish, JobSpec, OutputLog
from stepserve.protocol.sampling import Sampling
from stepserve.protocol.step import Admission, StepCommand, StepReport

Key = tuple[str, int]
Turn = tuple[tuple[Event, ...], tuple[Effect, ...]]


class Redactor:
    """Redacts the turns of one core, in order.

    Tokens become the pseudonyms of their chains, tenants keyed hashes. Job ids, which name
    the model, numbers and times stay. Log-probabilities, stop strings and ids, biases, every
    other sampling value, idempotency keys and where a text was cut are dropped.
    """

    def __init__(self, incarnation: str, key: bytes) -> None:
        self._incarnation = incarnation
        self._key = key
        self._chains: dict[Key, Chain] = {}
        self._residents: dict[int, Key] = {}
        self._ended: set[Key] = set()

    def turn(self, events: Sequence[Event], effects: Sequence[Effect]) -> Turn:
        """Return what the core was told and what it wanted then, redacted alike."""
        redacted = (
            tuple(self._event(event) for event in events),
            tuple(self._effect(effect) for effect in effects),
        )
        # Only now: what ends in a turn may have rows in it.
        for key in self._ended:
            self._chains.pop(key, None)
        self._ended.clear()
        return redacted

    def _event(self, event: Event) -> Event:
        match event:
            case Adopted(jobs):
                for held in (*event.kept, *event.departed):
                    self._residents[held.sequence_id] = held.job_id, held.index
                return replace(event, jobs=tuple(self._job(job) for job in jobs))
            case Claimed(jobs):
                return Claimed(tuple(self._job(job) for job in jobs))
            case Reported(report, stops):
                hits = {key: StopHit(hit.offset, 0, hit.error) for key, hit in stops.items()}
                return Reported(self._report(report), hits)
            case Committed(_, ended):
                self._ended.update(ended)
            case Cancelled(job_ids):
                self._end_jobs(job_ids)
            case WorkerLost():
                self._ended.update(self._chains)
        return event

    def _effect(self, effect: Effect) -> Effect:
        match effect:
            case Send(command) if command.admissions:
                return Send(self._command(command))
            case Commit(step, rows) if rows:
                return Commit(step, tuple(self._row(row) for row in rows))
            case Requeue(job_ids):
                self._end_jobs(job_ids)
        return effect

    def _end_jobs(self, job_ids: Iterable[str]) -> None:
        gone = frozenset(job_ids)
        self._ended.update(key for key in self._chains if key[0] in gone)

    def _job(self, job: ClaimedJob) -> ClaimedJob:
        spec = job.spec
        prompt = Chain(self._key, spec.tenant, spec.prompt_token_ids)
        outputs = {output.index: output for output in job.outputs}
        for index in range(spec.sampling.n):
            chain = prompt.fork()
            if output := outputs.get(index):
                chain.extend(output.token_ids)
            self._follow((spec.job_id, index), chain)
        return ClaimedJob(
            JobSpec(
                job_id=spec.job_id,
                model="",
                prompt_token_ids=prompt.pseudonyms(spec.prompt_token_ids) or (),
                sampling=_planned(spec.sampling),
                priority=spec.priority,
                tenant=self._tenant(spec.tenant),
                deadline_s=spec.deadline_s,
                arrival_s=spec.arrival_s,
            ),
            tuple(self._output(prompt, output) for output in job.outputs),
            job.rank,
        )

    def _follow(self, key: Key, chain: Chain) -> None:
        """A job that is here already may come again; the core goes on with what it knows."""
        if key in self._ended or key not in self._chains:
            self._chains[key] = chain
            self._ended.discard(key)

    def _output(self, prompt: Chain, output: OutputLog) -> OutputLog:
        chain = prompt.fork()
        chain.extend(output.token_ids)
        return OutputLog(
            index=output.index,
            token_ids=chain.pseudonyms(output.token_ids, prompt.num_prompt_tokens) or (),
            offset=output.offset,
            finish=None if output.finish is None else Finish(output.finish.reason),
        )

    def _tenant(self, tenant: str) -> str:
        """The nameless one stays so."""
        digest = blake2b(tenant.encode(), digest_size=8, key=self._key, person=b"tenant")
        return tenant and digest.hexdigest()

    def _report(self, report: StepReport) -> StepReport:
        is_ours = report.incarnation == self._incarnation
        tokens = zip(report.token_sequence_ids, report.token_offsets, report.token_ids, strict=True)
        token_ids = [self._reported_token(is_ours, *token) for token in tokens]
        if is_ours:
            for sequence_id, _ in report.freed:
                self._residents.pop(sequence_id, None)
        return replace(report, token_ids=token_ids, logprobs={})

    def _reported_token(self, is_ours: bool, sequence_id: int, offset: int, token_id: int) -> int:
        chain = self._chains.get(self._residents.get(sequence_id, ("", 0))) if is_ours else None
        if chain is not None:
            known = chain.pseudonym(token_id, chain.num_prompt_tokens + offset)
            if known is not None:
                return known
        # Of another incarnation, or of an output that has ended: the core will not take it.
        return self._stray((sequence_id, offset, token_id))

    def _stray(self, numbers: Sequence[int]) -> int:
        digest = blake2b(repr(tuple(numbers)).encode(), digest_size=4, key=self._key)
        return int.from_bytes(digest.digest(), "little")

    def _command(self, command: StepCommand) -> StepCommand:
        return replace(command, admissions=[self._admission(each) for each in command.admissions])

    def _admission(self, admission: Admission) -> Admission:
        key = admission.job_id, admission.index
        self._residents[admission.sequence_id] = key
        return Admission(
            sequence_id=admission.sequence_id,
            job_id=admission.job_id,
            index=admission.index,
            token_ids=self._tokens(key, admission.token_ids, 0),
            num_prompt_tokens=admission.num_prompt_tokens,
            sampling=_planned(admission.sampling),
            num_computed=admission.num_computed,
            block_ids=admission.block_ids,
        )

    def _row(self, row: CommitRow) -> CommitRow:
        key = row.job_id, row.index
        chain = self._chains.get(key)
        first = 0 if chain is None else chain.num_prompt_tokens + row.offset
        finish = row.finish
        if finish is not None:
            self._ended.add(key)
            finish = replace(finish, text_bytes=min(finish.text_bytes, 0))
        token_ids = self._tokens(key, row.token_ids, first)
        return CommitRow(row.job_id, row.index, row.offset, token_ids, finish=finish)

    def _tokens(self, key: Key, token_ids: Sequence[int], first: int) -> Sequence[int]:
        """Tokens that the core has and was never told are its mistake; no replay has them."""
        chain = self._chains.get(key)
        known = None if chain is None else chain.pseudonyms(token_ids, first)
        if known is None:
            known = tuple(self._stray((i, *token_ids)) for i in range(len(token_ids)))
        return known


def _planned(sampling: Sampling) -> Sampling:
    """What of it planning depends on: lengths, outputs, and whether the prompt is scored."""
    return Sampling(
        max_tokens=sampling.max_tokens,
        n=sampling.n,
        prompt_logprobs=min(0, sampling.prompt_logprobs),
    )
