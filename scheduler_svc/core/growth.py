"""How sequences are expected to grow, and whether a newcomer fits among them then.

Source: the peak of foreseen memory over the coming ends, as in Gong et al., "Past-Future
Scheduler for LLM Serving under SLA Guarantees", section 4, with stratified draws for samples.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable

from kvstore.blocks import num_blocks_for
from scheduler_svc.core.config import CoreConfig
from scheduler_svc.core.lengths import OutputLengths
from scheduler_svc.core.sequence import Sequence

# What is expected of a sequence is looked up again after so many more tokens.
EXPECTED_FOR_TOKENS = 16


class Growth:
    """Foresees how long sequences become, and so how many blocks they come to need at once."""

    def __init__(self, config: CoreConfig, lengths: OutputLengths) -> None:
        self._config = config
        self._lengths = lengths

    def outlook(self, running: Iterable[Sequence]) -> Outlook:
        """Return what is to be expected of those that run."""
        return Outlook(self, self._config, running)

    def remaining(self, sequence: Sequence) -> float:
        """Return how many more tokens to expect of a sequence."""
        limit = sequence.max_length - sequence.num_tokens
        generated = sequence.num_tokens - sequence.num_prompt_tokens
        return self._lengths.remaining(sequence.spec.tenant, generated, limit)

    def expected_length(self, sequence: Sequence) -> float:
        """Return prompt and output as foreseen; remembered for some tokens.

        Drawn from the lengths of outputs that ended: expectations would let all end at once.
        The draws are spread evenly over the sequences as they come, so nothing is random.
        """
        if sequence.num_tokens >= sequence.expect_again_at:
            limit = sequence.max_length - sequence.num_tokens
            generated = sequence.num_tokens - sequence.num_prompt_tokens
            tenant = sequence.spec.tenant
            drawn = self._lengths.drawn(tenant, generated, limit, sequence.quantile)
            sequence.expected_length = sequence.num_tokens + drawn
            sequence.expect_again_at = sequence.num_tokens + EXPECTED_FOR_TOKENS
        return sequence.expected_length


class Outlook:
    """The expected need of a set of sequences, to which newcomers are added one by one.

    Where nobody may be preempted it is the largest possible need instead.
    """

    def __init__(self, growth: Growth, config: CoreConfig, running: Iterable[Sequence]) -> None:
        self._growth = growth
        self._config = config
        # (tokens to come, tokens held), most to come last.
        self._futures = sorted(self._future(s, s.num_shared) for s in running)
        self._held = sum(held for _, held in self._futures)

    def holds(self, newcomer: Sequence, num_shared: int) -> bool:
        """Whether there is room for one more, of whose blocks others hold ``num_shared``."""
        future = self._future(newcomer, num_shared)
        size = self._config.block_size
        count, held = len(self._futures) + 1, self._held + future[1]
        longest = max(future[0], self._futures[-1][0] if self._futures else 0.0)
        # No more than if all went on as long as the longest: mostly that is enough to know.
        if (held + count * longest) / size + count / 2 <= self._config.num_blocks:
            return True
        futures = [*self._futures]
        insort(futures, future)
        return _peak_blocks(futures, size) <= self._config.num_blocks

    def add(self, newcomer: Sequence) -> None:
        """It runs now."""
        future = self._future(newcomer, newcomer.num_shared)
        insort(self._futures, future)
        self._held += future[1]

    def _future(self, sequence: Sequence, num_shared: int) -> tuple[float, float]:
        size = self._config.block_size
        if not self._config.enable_preemption:
            # Held at once, from now on: whole blocks, without the half that is empty on average.
            most = num_blocks_for(sequence.max_length - 1, size)
            return 0.0, most * size - size / 2
        held = sequence.num_tokens - num_shared * size
        return self._growth.expected_length(sequence) - sequence.num_tokens, held


def _peak_blocks(futures: list[tuple[float, float]], size: int) -> float:
    """Let all grow by a token a step: the need is greatest just before one of the ends."""
    peak = total = 0.0
    for count, (remaining, held) in enumerate(reversed(futures), start=1):
        total += held
        # Half of each last block is empty on average.
        peak = max(peak, (total + count * remaining) / size + count / 2)
    return peak
