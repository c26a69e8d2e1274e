"""Recorded steps told in words: who was in each, who joined, whose place it took, who was done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from stepserve_bench.measure.recorded import Doing, RecordedStep, SequenceName


@dataclass(frozen=True, slots=True)
class Told:
    """A job as the story calls it: its number, and how many tokens it asked for."""

    number: int
    max_tokens: int


@dataclass(slots=True)
class Narrator:
    """Follows the jobs from step to step. ``is_selective`` also tells how attention was grouped."""

    jobs: Mapping[SequenceName, Told]
    is_selective: bool = False
    _num_tokens: Counter[SequenceName] = field(default_factory=Counter)
    _places_left: list[int] = field(default_factory=list)

    def tell(self, steps: Sequence[RecordedStep]) -> Iterator[str]:
        """Yield lines; steps are counted from 0, and those that computed nothing left out."""
        for i, step in enumerate(worked(steps)):
            yield f"Step {i}: batch of {step.num_rows}"
            if self.is_selective:
                yield from _grouping(step)
            for name in sorted(step.row_tokens, key=lambda name: self.jobs[name].number):
                yield self._job(name, step, has_begun=i > 0)

    def _job(self, name: SequenceName, step: RecordedStep, has_begun: bool) -> str:
        job = self.jobs[name]
        joined = has_begun and name not in self._num_tokens
        self._num_tokens[name] += 1
        line = f"  job {job.number}: {self._num_tokens[name]} of {job.max_tokens} tokens"
        if joined:
            took = f": took the place of job {self._places_left.pop(0)}" * bool(self._places_left)
            line += f" (joined{took})"
        if step.doing[name] is Doing.LEAVES:
            line += " (done)"
            self._places_left.append(job.number)
        return line


def worked(steps: Sequence[RecordedStep]) -> list[RecordedStep]:
    """Return the steps that computed anything."""
    return [step for step in steps if step.num_rows]


def _grouping(step: RecordedStep) -> Iterator[str]:
    """Attention takes rows of equal length at once, the token-wise layers take all of them."""
    groups = Counter((step.lengths[name], step.row_tokens[name]) for name in step.row_tokens)
    yield "  attention:"
    for (length, num_new), num_rows in sorted(groups.items(), reverse=True):
        rows = "1 job" if num_rows == 1 else f"{num_rows} jobs"
        new = "" if num_new == 1 else f", {num_new} of them new"
        yield f"    a group of {rows} at length {length}{new}"
    tokens = "1 token" if step.num_tokens == 1 else f"{step.num_tokens} tokens"
    jobs = "1 job" if step.num_rows == 1 else f"all {step.num_rows} jobs"
    yield f"  feed-forward: {tokens} of {jobs} at once"
