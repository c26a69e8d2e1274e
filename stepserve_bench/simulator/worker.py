"""A worker without a model: it counts what it would compute, and ends jobs at their lengths."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from operator import mul

from stepserve.protocol.step import Admission, FinishReason, StepCommand, StepReport
from stepserve_bench.simulator.cost import StepShape
from stepserve_bench.simulator.job import Job
from stepserve_bench.simulator.rectangle import Rectangle
from stepserve_bench.simulator.system import System


class _Resident:
    """A sequence that the worker knows; ``first_computed`` positions were there already."""

    __slots__ = (
        "block_ids",
        "first_computed",
        "has_ended",
        "job",
        "num_computed",
        "num_prompt",
        "num_tokens",
    )

    def __init__(self, job: Job, admission: Admission) -> None:
        self.job = job
        self.num_prompt = admission.num_prompt_tokens
        self.num_tokens = len(admission.token_ids)
        self.num_computed = self.first_computed = admission.num_computed
        self.block_ids = list(admission.block_ids)
        self.has_ended = False


class Tally:
    """What one step came to.

    ``jobs`` got a token each, at ``offsets`` of their outputs, under ``sequence_ids``. ``others``
    are those of them whose token does not follow one of their micro-batch's step before (with
    one stage, of the step before), each with the step of the token before it (0: it is the first).
    """

    __slots__ = (
        "ended",
        "finished",
        "freed",
        "jobs",
        "num_rows",
        "offsets",
        "others",
        "sequence_ids",
        "shape",
    )

    def __init__(self) -> None:
        self.sequence_ids: list[int] = []
        self.offsets: list[int] = []
        self.jobs: list[Job] = []
        self.others: list[tuple[Job, int]] = []
        self.ended: list[Job] = []
        self.finished: list[tuple[int, FinishReason]] = []
        self.freed: list[tuple[int, list[int]]] = []
        self.num_rows = 0
        self.shape = StepShape(0, 0, 0, 0, 0, 0, 0)

    def report(self, command: StepCommand, duration_us: float) -> StepReport:
        """Return what the worker says of the step."""
        return StepReport(
            command.incarnation,
            command.epoch,
            command.step,
            self.sequence_ids,
            self.offsets,
            [0] * len(self.sequence_ids),
            {},
            self.finished,
            self.freed,
            round(duration_us),
            self.shape.num_positions,
            self.shape.num_context,
        )


class SimulatedWorker:
    """Executes commands at once; how long they take is its ``Tally``'s shape's affair.

    ``job_of`` finds the job of an id. ``num_computed_twice`` counts tokens, when the sequence
    leaves that computed them again; ``num_prefix_hits`` those that a newcomer found computed.
    """

    def __init__(self, system: System, job_of: Callable[[str], Job]) -> None:
        self._job_of = job_of
        self._residents: dict[int, _Resident] = {}
        self._ended: deque[tuple[int, int]] = deque()  # (step, sequence id)
        self._num_ahead = system.core_config().max_steps_in_flight
        self._num_stages = system.num_stages
        self._shape_of = SHAPES[system.attention]
        is_static = system.batching == "static" and system.attention == "padded"
        self._rectangle = Rectangle() if is_static else None
        self._num_live = 0
        self.num_computed_twice = self.num_prefix_hits = 0

    @property
    def num_held_blocks(self) -> int:
        """Blocks of those that live here, a shared one counted for each."""
        return sum(len(r.block_ids) for r in self._residents.values() if not r.has_ended)

    def execute(self, command: StepCommand) -> Tally:
        """Do releases, admissions and rows; return what it came to."""
        tally = Tally()
        for sequence_id in command.release_ids:
            resident = self._residents[sequence_id]
            if not resident.has_ended:
                tally.freed.append((sequence_id, resident.block_ids))
                self._leave(resident, sequence_id, command.step)
        self._forget_ended(command.step)
        for admission in command.admissions:
            self._admit(admission)
        num_dead = self._rectangle.num_dead(self._num_live) if self._rectangle else 0
        counts, contexts = self._rows(command, tally)
        tally.num_rows = len(counts)
        tally.shape = self._shape_of(counts, contexts, num_dead, len(tally.jobs))
        return tally

    def _admit(self, admission: Admission) -> None:
        job = self._job_of(admission.job_id)
        self._residents[admission.sequence_id] = _Resident(job, admission)
        if not job.num_admitted:
            self.num_prefix_hits += admission.num_computed
        job.num_admitted += 1
        self._num_live += 1

    def _leave(self, resident: _Resident, sequence_id: int, step: int) -> None:
        """It is dropped; what it computed that had been computed before counts as twice."""
        resident.has_ended = True
        self._num_live -= 1
        if self._rectangle:
            self._rectangle.left(self._num_live)
        self._ended.append((step, sequence_id))
        job = resident.job
        again = min(job.num_computed, resident.num_computed) - resident.first_computed
        self.num_computed_twice += max(0, again)
        job.num_computed = max(job.num_computed, resident.num_computed)

    def _forget_ended(self, step: int) -> None:
        """No step that is planned after the report of its last one names a sequence."""
        ended, last_named = self._ended, step - self._num_ahead
        while ended and ended[0][0] < last_named:
            del self._residents[ended.popleft()[1]]

    def _rows(self, command: StepCommand, tally: Tally) -> tuple[list[int], list[int]]:
        """Compute every row that has not ended; return their token counts and contexts."""
        residents, step = self._residents, command.step
        ids, offsets, jobs = tally.sequence_ids, tally.offsets, tally.jobs
        counts: list[int] = []
        contexts: list[int] = []
        at = 0
        for sequence_id, count, num_new in zip(
            command.row_sequence_ids,
            command.row_num_tokens,
            command.row_num_new_blocks,
            strict=True,
        ):
            resident = residents[sequence_id]
            if num_new:
                self._grow(resident, sequence_id, command.new_block_ids[at : at + num_new], tally)
                at += num_new
            if resident.has_ended:
                continue
            num_computed = resident.num_computed = resident.num_computed + count
            counts.append(count)
            contexts.append(num_computed)
            if num_computed != resident.num_tokens:
                continue
            # Nothing is pending: the next token comes.
            resident.num_tokens = num_computed + 1
            offset = num_computed - resident.num_prompt
            job = resident.job
            ids.append(sequence_id)
            offsets.append(offset)
            jobs.append(job)
            if job.last_step != step - self._num_stages or not offset:
                tally.others.append((job, job.last_step))
            job.last_step = step
            if offset + 1 >= job.output:
                self._end(resident, sequence_id, step, tally)
        return counts, contexts

    def _grow(
        self, resident: _Resident, sequence_id: int, block_ids: Sequence[int], tally: Tally
    ) -> None:
        """Take new blocks; those for a sequence that has ended come back at once."""
        if resident.has_ended:
            tally.freed.append((sequence_id, list(block_ids)))
        else:
            resident.block_ids += block_ids

    def _end(self, resident: _Resident, sequence_id: int, step: int, tally: Tally) -> None:
        """Its last token was chosen."""
        job = resident.job
        is_full = job.output >= job.max_tokens
        tally.ended.append(job)
        tally.finished.append((sequence_id, FinishReason.LENGTH if is_full else FinishReason.STOP))
        tally.freed.append((sequence_id, resident.block_ids))
        job.num_done = job.output
        self._leave(resident, sequence_id, step)


def paged_shape(counts: list[int], contexts: list[int], _num_dead: int, sampled: int) -> StepShape:
    """Nothing is padded; one call attends every row through its block table."""
    num_positions = sum(counts)
    return StepShape(
        len(counts),
        num_positions,
        sum(contexts),
        sum(map(mul, counts, contexts)),
        0,
        sampled,
        num_positions,
    )


def grouped_shape(counts: list[int], contexts: list[int], num_dead: int, sampled: int) -> StepShape:
    """As paged, with one attention call for the rows of one length."""
    shape = paged_shape(counts, contexts, num_dead, sampled)
    return shape._replace(num_groups=len(set(zip(counts, contexts, strict=True))))


def padded_shape(counts: list[int], contexts: list[int], num_dead: int, sampled: int) -> StepShape:
    """One rectangle: every row as long as the longest, in queries and in context.

    Dead rows are computed to the end: a next token is chosen for each of them, too.
    """
    if not counts:
        return StepShape(0, 0, 0, 0, 0, 0, 0)
    num_rows = len(counts) + num_dead
    num_positions = num_rows * max(counts)
    num_context = num_rows * max(contexts)
    return StepShape(
        num_rows,
        num_positions,
        num_context,
        num_context * max(counts),
        1,
        sampled + num_dead,
        sum(counts),
    )


SHAPES: dict[str, Callable[[list[int], list[int], int, int], StepShape]] = {
    "paged": paged_shape,
    "grouped": grouped_shape,
    "padded": padded_shape,
}
