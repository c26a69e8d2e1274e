"""Which jobs with a deadline are late, or would be."""

from __future__ import annotations

from scheduler_svc.core.budget import StepBudget
from scheduler_svc.core.growth import Growth
from scheduler_svc.core.sequence import Sequence, State
from stepserve.protocol.job import DEADLINE_PASSED, Finish


class Punctuality:
    """Watches the sequences that have a deadline.

    One that runs is ended when its time is over. One that waits is ended as soon as what is
    expected of it takes longer than is left: its work would be for nothing.
    """

    def __init__(self, budget: StepBudget, growth: Growth) -> None:
        self._budget = budget
        self._growth = growth
        self._watched: dict[tuple[str, int], Sequence] = {}

    def watch(self, sequence: Sequence) -> None:
        """Take note of a new sequence, if it has a deadline."""
        if sequence.spec.deadline_s:
            self._watched[sequence.key] = sequence

    def late(self, now_s: float) -> list[tuple[Sequence, Finish]]:
        """Return who is to be ended at ``now_s``, and how."""
        late = []
        for key, sequence in list(self._watched.items()):
            if sequence.state in {State.ENDED, State.GONE}:
                del self._watched[key]
            elif finish := self._finish(sequence, now_s):
                late.append((sequence, finish))
                del self._watched[key]
        return late

    def _finish(self, sequence: Sequence, now_s: float) -> Finish | None:
        left_s = sequence.spec.deadline_s - now_s
        if left_s <= 0:
            return DEADLINE_PASSED
        if sequence.state is not State.WAITING:
            return None
        needed_s = self._needed_us(sequence) / 1e6
        if needed_s <= left_s:
            return None
        problem = f"about {needed_s:.2f} s are needed, {left_s:.2f} s are left"
        return Finish("deadline", f"the job can't meet its deadline: {problem}")

    def _needed_us(self, sequence: Sequence) -> float:
        """Steps for what is pending, and a step of its own for each token to be expected."""
        budget, step_time = self._budget.tokens, self._budget.step_time
        num_whole, rest = divmod(sequence.num_pending, budget)
        prompt_us = num_whole * step_time.predict_us(budget)
        if rest:
            prompt_us += step_time.predict_us(rest)
        return prompt_us + self._growth.remaining(sequence) * step_time.predict_us(1)
