"""How long a step takes, by its tokens: learned from the steps that were reported."""

from __future__ import annotations

# What a measurement still weighs after the next one.
MEMORY = 0.95


class StepTime:
    """The line through measured (tokens, microseconds), the latest weighing most.

    Weighted least squares over sums that fade: a fixed part, and a part for each token.
    """

    def __init__(self) -> None:
        self._weight = 0.0
        self._tokens = self._us = 0.0
        self._tokens_squared = self._tokens_us = 0.0

    def observe(self, num_tokens: int, duration_us: int) -> None:
        """A step of ``num_tokens`` tokens took ``duration_us`` microseconds."""
        if not num_tokens or not duration_us:
            return
        self._weight = MEMORY * self._weight + 1
        self._tokens = MEMORY * self._tokens + num_tokens
        self._us = MEMORY * self._us + duration_us
        self._tokens_squared = MEMORY * self._tokens_squared + num_tokens * num_tokens
        self._tokens_us = MEMORY * self._tokens_us + num_tokens * duration_us

    def predict_us(self, num_tokens: int) -> float:
        """Return how long a step of so many tokens takes; 0 before the first measurement."""
        if not self._weight:
            return 0.0
        fixed_us, token_us = self._line()
        return max(0.0, fixed_us + token_us * num_tokens)

    def tokens_within(self, duration_us: float) -> float:
        """Return how many tokens take so long; infinite where that is not known."""
        if not self._weight:
            return float("inf")
        fixed_us, token_us = self._line()
        return (duration_us - fixed_us) / token_us

    def _line(self) -> tuple[float, float]:
        """The fixed part and that of a token; all of it the token's while sizes were alike."""
        spread = self._weight * self._tokens_squared - self._tokens**2
        product = self._weight * self._tokens_us - self._tokens * self._us
        if product <= 0 or spread <= 1e-6 * self._tokens**2:
            return 0.0, self._us / self._tokens
        token_us = product / spread
        fixed_us = (self._us - token_us * self._tokens) / self._weight
        return (fixed_us, token_us) if fixed_us > 0 else (0.0, self._us / self._tokens)
