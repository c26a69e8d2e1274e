"""The least a lane can be: it deals out blocks, writes commands, and believes reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kvstore.blocks import num_blocks_for
from kvstore.pool import BlockPool
from stepserve.protocol.sampling import Sampling
from stepserve.protocol.step import Admission, FinishReason, StepCommand, StepReport, TokenLogprobs


@dataclass
class Job:
    """One sequence as a lane sees it; ``num_tokens`` counts a token for every step sent."""

    admission: Admission
    num_tokens: int
    num_computed: int
    blocks: list[int]
    tokens: list[int]
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    finish: FinishReason | None = None
    freed: bool = False


class Lane:
    """Commands for one worker. Every report is checked against what was sent."""

    def __init__(self, num_blocks: int, block_size: int, incarnation: str = "me") -> None:
        self.pool = BlockPool(num_blocks)
        self.jobs: dict[int, Job] = {}
        self.step = 0
        self.committed = 0
        self._block_size = block_size
        self._incarnation = incarnation
        self._admissions: list[Admission] = []

    def admit(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        output: Sequence[int] = (),
        shared: tuple[int, Sequence[int]] = (0, ()),
        index: int = 0,
    ) -> int:
        """Admit with the next command; ``shared`` is (num_computed, block ids)."""
        sequence_id = len(self.jobs) + 1
        num_computed, block_ids = shared
        admission = Admission(
            sequence_id,
            f"job-{sequence_id}",
            index,
            (*prompt, *output),
            len(prompt),
            sampling,
            num_computed,
            tuple(block_ids),
        )
        self.pool.retain(block_ids)
        num_tokens = len(prompt) + len(output)
        self.jobs[sequence_id] = Job(
            admission, num_tokens, num_computed, list(block_ids), list(output)
        )
        self._admissions.append(admission)
        return sequence_id

    def command(self, rows: Mapping[int, int], release: Sequence[int] = ()) -> StepCommand:
        """The next step: how many pending tokens of which sequences."""
        counts, new_blocks = [], []
        for sequence_id, num_tokens in rows.items():
            job = self.jobs[sequence_id]
            wanted = num_blocks_for(job.num_computed + num_tokens, self._block_size)
            blocks = self.pool.allocate(max(0, wanted - len(job.blocks)))
            job.blocks += blocks
            job.num_computed += num_tokens
            job.num_tokens += job.num_computed == job.num_tokens
            counts.append(len(blocks))
            new_blocks += blocks
        self.step += 1
        admissions, self._admissions = self._admissions, []
        return StepCommand(
            epoch=1,
            incarnation=self._incarnation,
            step=self.step,
            committed_step=self.committed,
            release_ids=tuple(release),
            admissions=tuple(admissions),
            row_sequence_ids=tuple(rows),
            row_num_tokens=tuple(rows.values()),
            row_num_new_blocks=tuple(counts),
            new_block_ids=tuple(new_blocks),
        )

    def take(self, report: StepReport) -> None:
        """Believe a report, and take back the blocks that it frees."""
        rows = zip(report.token_sequence_ids, report.token_offsets, report.token_ids, strict=True)
        for position, (sequence_id, offset, token_id) in enumerate(rows):
            job = self.jobs[sequence_id]
            assert offset == len(job.tokens)
            assert job.finish is None
            job.tokens.append(token_id)
            if position in report.logprobs:
                job.logprobs.append(report.logprobs[position])
        for sequence_id, reason in report.finished:
            self.jobs[sequence_id].finish = reason
        for sequence_id, block_ids in report.freed:
            job = self.jobs[sequence_id]
            job.blocks = [block_id for block_id in job.blocks if block_id not in block_ids]
            job.freed = True
            self.pool.release(block_ids)
        self.committed = report.step
        self.pool.check()

    def pending(self, sequence_id: int) -> int:
        """Pending tokens, as far as commands were sent."""
        job = self.jobs[sequence_id]
        return job.num_tokens - job.num_computed
