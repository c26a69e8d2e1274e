"""How many tokens a step may compute, so that it takes as long as it should."""

from __future__ import annotations

from scheduler_svc.core.config import CoreConfig

# How much one measurement may change the budget: down at once, up with care.
MAX_CUT, MAX_RISE = 0.5, 1.1
PACE_MEMORY = 0.9


class StepBudget:
    """Tokens for the next step, from how long the steps before took.

    Without a target it is ``max_step_tokens``. With one it is multiplied after each step
    that used it up by target / measured, within bounds: a step's time grows with its tokens,
    so this settles where both are equal. All that decode always fit, and a block of a prompt.
    """

    def __init__(self, config: CoreConfig) -> None:
        self._target_us = config.target_step_us
        self._most = config.max_step_tokens
        self._least = min(config.max_step_tokens, config.num_places + config.block_size)
        self._tokens = float(self._most)
        self.pace_us = 0.0  # A step's time, the latest ones weighing most.

    @property
    def tokens(self) -> int:
        return int(self._tokens)

    def observe(self, num_tokens: int, duration_us: int) -> None:
        """A step of ``num_tokens`` tokens took ``duration_us`` microseconds."""
        if not num_tokens or not duration_us:
            return
        memory = PACE_MEMORY if self.pace_us else 0.0
        self.pace_us = memory * self.pace_us + (1 - memory) * duration_us
        if not self._target_us:
            return
        factor = self._target_us / duration_us
        # A step that had tokens to spare says only whether fewer would have been too many.
        if num_tokens >= int(self._tokens) or factor < 1:
            start = min(self._tokens, num_tokens) if factor < 1 else self._tokens
            wanted = start * min(max(factor, MAX_CUT), MAX_RISE)
            self._tokens = min(max(wanted, self._least), self._most)
