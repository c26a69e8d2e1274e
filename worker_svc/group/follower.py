"""A rank that does what rank 0 tells it: it plans, launches and settles the same steps."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from worker_svc.core.residents import StepPlan
from worker_svc.core.step_runner import Launched
from worker_svc.group.turns import Turn, decode
from worker_svc.runner import Runner


class Follower:
    """Follows ``turns`` with a runner, in one thread."""

    def __init__(self, runner: Runner, turns: Iterator[tuple[Turn, bytes]]) -> None:
        self._runner = runner
        self._turns = turns
        self._flying: deque[tuple[StepPlan, Launched]] = deque()

    def follow(self) -> Turn:
        """Do as told until something else than a step is to be done; return that.

        Raises:
            Exception: a step fails, or rank 0 can't be heard; nothing can be trusted any more.
        """
        for turn, payload in self._turns:
            if turn is Turn.STEP:
                plan = self._runner.plan(decode(payload))
                self._flying.append((plan, self._runner.launch(plan)))
            elif turn is Turn.SETTLE:
                plan, launched = self._flying.popleft()
                self._runner.absorb(plan, launched.wait())
            elif turn is Turn.RESET:
                self._runner.reset()
            else:
                return turn
        raise AssertionError("turns end with END")
