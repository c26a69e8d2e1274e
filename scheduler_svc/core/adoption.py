"""What becomes of the sequences that a worker holds when another lane takes it.

The worker tells how many tokens each has, the logs tell which; the reports that the worker
keeps lead from the one to the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from kvstore.blocks import num_blocks_for
from kvstore.pool import BlockPool
from scheduler_svc.core.config import CoreConfig
from scheduler_svc.core.errors import ProtocolError
from scheduler_svc.core.events import Adopted
from scheduler_svc.core.intake import sequences_of
from scheduler_svc.core.sequence import Sequence as Output
from stepserve.protocol.job import ClaimedJob
from stepserve.protocol.step import HelloReply, ResidentSequence, StepReport

Key = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Adoption:
    """A core's first events: ``event``, then the ``reports``, once stop strings were looked for.

    The reports name only what concerns the core. The worker has nothing of the jobs in
    ``given_back``: whoever has room for them may run them.
    """

    event: Adopted
    reports: Sequence[StepReport]
    given_back: Sequence[str]


def decide_adoption(
    jobs: Sequence[ClaimedJob],
    reply: HelloReply,
    reports: Sequence[StepReport],
    config: CoreConfig,
) -> Adoption:
    """Adopt each sequence whose log and kept reports equal what the worker holds.

    The others are released, and computed again where their jobs are claimed. ``jobs`` are
    those, with what was in their logs after the epoch was raised; ``reports`` are all that the
    worker keeps. Raises ProtocolError where the worker contradicts itself.
    """
    _check(reply, reports, config)
    residents = {_key(sequence): sequence for sequence in reply.sequences}
    departed = {_key(sequence): sequence for sequence in reply.departed}
    traced = {job_id for job_id, _ in (*residents, *departed)}
    ours = [job for job in jobs if job.spec.job_id in traced]
    outputs = {s.key: s for job in ours for s in sequences_of(job, config.max_context)}
    names = {s.sequence_id: _key(s) for s in (*reply.departed, *reply.sequences)}
    replay = _Replay(names, outputs)
    replay.take(reports)
    kept = _kept(outputs, residents, replay, config)
    left = [s for key, s in departed.items() if key not in residents and replay.brings(key)]
    chosen = {_key(sequence): sequence.sequence_id for sequence in (*kept, *left)}
    kept_ids = {sequence.sequence_id for sequence in kept}
    event = Adopted(
        jobs=tuple(ours),
        kept=tuple(kept),
        departed=tuple(left),
        released=tuple(s for s in reply.sequences if s.sequence_id not in kept_ids),
        num_reports=len(reports),
        last_id=reply.last_sequence_id,
    )
    given_back = [job.spec.job_id for job in jobs if job.spec.job_id not in traced]
    return Adoption(event, [replay.told(report, chosen) for report in reports], given_back)


def _key(sequence: ResidentSequence) -> Key:
    return sequence.job_id, sequence.index


def _check(reply: HelloReply, reports: Sequence[StepReport], config: CoreConfig) -> None:
    """Raise ProtocolError where what the worker tells can't be so."""
    first = reply.last_step - len(reports) + 1
    for step, report in enumerate(reports, first):
        if (report.incarnation, report.step) != (config.incarnation, step):
            raise ProtocolError(f"a report of step {report.step} is kept where {step} belongs")
    try:
        BlockPool(config.num_blocks).restore([s.block_ids for s in reply.sequences])
    except ValueError as error:
        raise ProtocolError(f"the worker's block tables can't be: {error}") from None


def _kept(
    outputs: Mapping[Key, Output],
    residents: Mapping[Key, ResidentSequence],
    replay: _Replay,
    config: CoreConfig,
) -> list[ResidentSequence]:
    """Who goes on, first in order first, and no more than there are places."""
    fitting = [
        (outputs[key].order, held)
        for key, held in residents.items()
        if key in outputs and replay.leads_to(key, held, outputs[key])
        if _is_sound(held, outputs[key], config)
    ]
    fitting.sort(key=lambda item: item[0])
    return [held for _, held in fitting[: config.num_places]]


def _is_sound(held: ResidentSequence, output: Output, config: CoreConfig) -> bool:
    """Whether it is as a core would have left it."""
    size, num_blocks = config.block_size, len(held.block_ids)
    fewest = num_blocks_for(held.num_computed, size)
    most = num_blocks_for(min(held.num_tokens, output.max_length - 1), size)
    has_pending = held.num_computed < held.num_tokens < output.max_length
    return has_pending and fewest <= num_blocks <= most


class _Replay:
    """What the kept reports bring that the logs lack.

    ``names`` says whose a sequence id is; ``outputs`` are those that have not ended, with the
    tokens of their logs. A lane between may have let a sequence in again without what was
    reported of it, and have had that computed again: of two tokens for one place the later
    counts, for the worker went on from that.
    """

    def __init__(self, names: Mapping[int, Key], outputs: Mapping[Key, Output]) -> None:
        self._names = names
        self._lengths = {key: output.num_outputs for key, output in outputs.items()}
        self._outputs = outputs
        self._next = dict(self._lengths)
        self._torn = set[Key]()  # A token is missing between log and reports, or is another.
        # Which step's report says so.
        self._ended: dict[Key, int] = {}
        self._chosen: dict[tuple[Key, int], int] = {}

    def take(self, reports: Sequence[StepReport]) -> None:
        """Follow every output through the reports, in their order."""
        for report in reports:
            tokens = zip(
                report.token_sequence_ids, report.token_offsets, report.token_ids, strict=True
            )
            for sequence_id, offset, token_id in tokens:
                key = self._names.get(sequence_id)
                if key is not None and key in self._next:
                    self._see(key, offset, token_id)
                    self._chosen[key, offset] = report.step
            ended = {self._names.get(sequence_id) for sequence_id, _ in report.finished}
            for key in ended:
                if key is not None and key in self._next:
                    self._ended[key] = report.step

    def _see(self, key: Key, offset: int, token_id: int) -> None:
        length, output = self._lengths[key], self._outputs[key]
        is_other = offset < length and output.token_ids[offset - length] != token_id
        if is_other or offset > self._next[key]:
            self._torn.add(key)
        self._next[key] = max(length, offset + 1)
        self._ended.pop(key, None)

    def brings(self, key: Key) -> bool:
        """Whether there are tokens or an end that can be appended to the log."""
        if key not in self._next or key in self._torn:
            return False
        return key in self._ended or self._next[key] > self._lengths[key]

    def leads_to(self, key: Key, held: ResidentSequence, output: Output) -> bool:
        """Whether log and reports together are what the worker holds, and go on."""
        if key in self._torn or key in self._ended:
            return False
        return output.num_prompt_tokens + self._next[key] == held.num_tokens

    def told(self, report: StepReport, chosen: Mapping[Key, int]) -> StepReport:
        """Return the report with what is new of the ``chosen`` outputs, under the ids given.

        It frees nothing: what the worker holds is what it holds after all of them.
        """
        rows = []
        for position, (sequence_id, offset) in enumerate(
            zip(report.token_sequence_ids, report.token_offsets, strict=True)
        ):
            key = self._names.get(sequence_id)
            if key is not None and key in chosen and self._is_new(key, offset, report.step):
                rows.append((position, chosen[key], offset))
        ended = [
            (key, reason)
            for sequence_id, reason in report.finished
            if (key := self._names.get(sequence_id)) and self._ended.get(key) == report.step
        ]
        logprobs = report.logprobs
        return replace(
            report,
            token_sequence_ids=[sequence_id for _, sequence_id, _ in rows],
            token_offsets=[offset for _, _, offset in rows],
            token_ids=[report.token_ids[position] for position, _, _ in rows],
            logprobs={i: logprobs[at] for i, (at, _, _) in enumerate(rows) if at in logprobs},
            finished=[(chosen[key], reason) for key, reason in ended if key in chosen],
            freed=(),
        )

    def _is_new(self, key: Key, offset: int, step: int) -> bool:
        """Whether the log lacks this token of the step's, and none came later in its place."""
        is_lacking = self._lengths[key] <= offset < self._next[key]
        return is_lacking and self._chosen[key, offset] == step
