"""Whether a newcomer fits: now, and later, when everybody's output has grown.

Source: the peak of expected memory over the coming ends, as in Gong et al., "Past-Future
Scheduler for LLM Serving under SLA Guarantees", section 4, with expectations for samples.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from kvstore.blocks import num_blocks_for
from scheduler_svc.core.config import CoreConfig
from scheduler_svc.core.lengths import OutputLengths
from scheduler_svc.core.sequence import Sequence


class Room:
    """Foresees how many blocks the running sequences come to need at once."""

    def __init__(self, config: CoreConfig, lengths: OutputLengths) -> None:
        self._config = config
        self._lengths = lengths

    def holds(self, running: Collection[Sequence], newcomer: Sequence, num_shared: int) -> bool:
        """Whether the cache holds what is to be expected of all these.

        ``num_shared`` of the newcomer's blocks are held by others already. Where nobody may
        be preempted: whether it holds whatever they may grow to.
        """
        newcomer.num_shared = num_shared
        if self._config.enable_preemption:
            return self._peak_blocks([*running, newcomer]) <= self._config.num_blocks
        size = self._config.block_size
        most = sum(num_blocks_for(s.max_length - 1, size) for s in (*running, newcomer))
        return most <= self._config.num_blocks

    def _peak_blocks(self, sequences: Iterable[Sequence]) -> float:
        """Let all grow by a token a step: the need is greatest just before one of the ends."""
        size = self._config.block_size
        futures = [(self.remaining(s), s.num_tokens - s.num_shared * size) for s in sequences]
        futures.sort(reverse=True)
        peak = held = 0.0
        for count, (remaining, num_tokens) in enumerate(futures, start=1):
            held += num_tokens
            # Half of each last block is empty on average.
            peak = max(peak, (held + count * remaining) / size + count / 2)
        return peak

    def remaining(self, sequence: Sequence) -> float:
        """Return how many more tokens to expect of a sequence."""
        limit = sequence.max_length - sequence.num_tokens
        generated = sequence.num_tokens - sequence.num_prompt_tokens
        return self._lengths.remaining(sequence.spec.tenant, generated, limit)
