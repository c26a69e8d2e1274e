"""A core whose sequences all decode, step after step, beside a stand-in for its worker."""

from __future__ import annotations

import random
import time
import tracemalloc
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from scheduler_svc.core.config import CoreConfig
from scheduler_svc.core.events import Claim, Claimed, Commit, Committed, Effect, Reported, Send
from scheduler_svc.core.scheduler import Core
from stepserve.protocol.job import ClaimedJob, JobSpec, OutputLog
from stepserve.protocol.sampling import Sampling
from stepserve.protocol.step import StepCommand, StepReport

EPOCH, INCARNATION = 1, "0" * 32
VOCAB_SIZE = 32_000


@dataclass(frozen=True, slots=True)
class DecodeCase:
    """Which sequences decode: one for each of ``prompts``, each for ``max_tokens``.

    Blocks and places are enough for these. ``num_waiting`` more wait beside them: they are
    further outputs of the last prompt, for a core claims no jobs that have no place.
    """

    prompts: Sequence[tuple[int, ...]]
    max_tokens: int
    block_size: int
    num_waiting: int = 0

    @property
    def max_context(self) -> int:
        """Tokens of the longest sequence at its end."""
        return max(map(len, self.prompts)) + self.max_tokens

    @property
    def num_blocks(self) -> int:
        """Blocks in which every running sequence can end."""
        return len(self.prompts) * (-(-self.max_context // self.block_size) + 1)

    @property
    def max_step_tokens(self) -> int:
        """A step's budget; decodes alone never reach it."""
        return max(2048, 4 * len(self.prompts))

    def jobs(self) -> list[ClaimedJob]:
        """Return one job for each prompt, in the order in which they arrived."""
        last = len(self.prompts) - 1
        return [
            self._job(index, prompt, 1 + self.num_waiting if index == last else 1)
            for index, prompt in enumerate(self.prompts)
        ]

    def _job(self, index: int, prompt: tuple[int, ...], num_outputs: int) -> ClaimedJob:
        sampling = Sampling(self.max_tokens, 0.0, ignore_eos=True, n=num_outputs)
        spec = JobSpec(f"job-{index:06}", "model", prompt, sampling, arrival_s=float(index))
        outputs = tuple(OutputLog(output) for output in range(num_outputs))
        return ClaimedJob(spec, outputs, rank=float(index))


def random_prompts(count: int, lengths: tuple[int, int], seed: int) -> list[tuple[int, ...]]:
    """Return prompts that have no block in common; lengths are uniform, both ends included."""
    draw = random.Random(seed)
    return [
        tuple(draw.randrange(VOCAB_SIZE) for _ in range(draw.randint(*lengths)))
        for _ in range(count)
    ]


class _Worker:
    """Answers commands as a worker would that computes nothing and never ends a sequence."""

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed)
        # Tokens known, tokens computed, and tokens of the prompt, by sequence id.
        self._known: dict[int, int] = {}
        self._computed: dict[int, int] = {}
        self._prompt: dict[int, int] = {}

    def report(self, command: StepCommand) -> StepReport:
        for admission in command.admissions:
            self._known[admission.sequence_id] = len(admission.token_ids)
            self._computed[admission.sequence_id] = admission.num_computed
            self._prompt[admission.sequence_id] = admission.num_prompt_tokens
        ids, offsets = [], []
        rows = zip(command.row_sequence_ids, command.row_num_tokens, strict=True)
        for sequence_id, num_tokens in rows:
            self._computed[sequence_id] += num_tokens
            if self._computed[sequence_id] == self._known[sequence_id]:
                ids.append(sequence_id)
                offsets.append(self._known[sequence_id] - self._prompt[sequence_id])
                self._known[sequence_id] += 1
        token_ids = [self._draw.randrange(VOCAB_SIZE) for _ in ids]
        return StepReport(INCARNATION, EPOCH, command.step, ids, offsets, token_ids)


class SteadyDecode:
    """A core in which every prompt is computed, with two steps in flight, as in a lane.

    ``step`` is one turn of a lane: the report of the oldest step in flight, and that its
    rows are committed, in one ``handle``, which plans the step after the next.
    """

    def __init__(self, case: DecodeCase) -> None:
        self.core = Core(
            CoreConfig(
                epoch=EPOCH,
                incarnation=INCARNATION,
                first_step=1,
                num_blocks=case.num_blocks,
                block_size=case.block_size,
                max_context=case.max_context,
                max_batch_size=len(case.prompts),
                max_step_tokens=case.max_step_tokens,
                max_uncommitted_steps=8,
                prefix_caching=True,
            )
        )
        self._worker = _Worker(seed=0)
        self.in_flight: deque[StepCommand] = deque()
        self._jobs = deque(case.jobs())
        self._take(self.core.handle([]))
        while self._is_starting(len(case.prompts)):
            self.step()

    def _is_starting(self, num_places: int) -> bool:
        is_computing = any(count > 1 for count in self.in_flight[-1].row_num_tokens)
        return self.core.num_running < num_places or is_computing

    def step(self) -> tuple[float, int]:
        """Take one turn; return its duration in µs, and its allocations' peak in bytes.

        The peak is 0 unless tracemalloc is on. What the turn is told is made before, and
        what it returned is freed after it.
        """
        report = self._worker.report(self.in_flight.popleft())
        events = (Reported(report), Committed(report.step))
        is_traced = tracemalloc.is_tracing()
        if is_traced:
            tracemalloc.reset_peak()
        before_bytes = tracemalloc.get_traced_memory()[0]
        start_ns = time.perf_counter_ns()
        effects = self.core.handle(events)
        duration_ns = time.perf_counter_ns() - start_ns
        peak_bytes = tracemalloc.get_traced_memory()[1] - before_bytes
        self._take(effects)
        return duration_ns / 1e3, peak_bytes

    def _take(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(command):
                    self.in_flight.append(command)
                case Claim() if self._jobs:
                    count = min(effect.max_jobs, len(self._jobs))
                    jobs = tuple(self._jobs.popleft() for _ in range(count))
                    self._take(self.core.handle([Claimed(jobs)]))
                case Commit() | Claim():
                    pass
