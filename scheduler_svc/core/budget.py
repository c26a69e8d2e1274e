"""How many tokens a step may compute, so that it takes as long as it should."""

from __future__ import annotations

from scheduler_svc.core.config import CoreConfig
from scheduler_svc.core.step_time import StepTime


class StepBudget:
    """Tokens for the next step: ``max_step_tokens``, or what the target leaves time for.

    All that decode always fit, and a block of a prompt.
    """

    def __init__(self, config: CoreConfig) -> None:
        self._target_us = config.target_step_us
        self._most = config.max_step_tokens
        self._least = min(config.max_step_tokens, config.num_places + config.block_size)
        self.step_time = StepTime()

    @property
    def tokens(self) -> int:
        if not self._target_us:
            return self._most
        wanted = self.step_time.tokens_within(self._target_us)
        return int(min(max(wanted, self._least), self._most))
