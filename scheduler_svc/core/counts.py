"""What a core has done so far, in numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counts:
    """Grow for the life of a core.

    ``num_recomputed_tokens`` were computed before their sequence was preempted;
    ``num_cached_tokens`` were not computed at all, because a block held them;
    ``num_adopted_tokens`` neither: the lane before had computed them, of
    ``num_adopted_sequences``.
    """

    num_preemptions: int = 0
    num_recomputed_tokens: int = 0
    num_cached_tokens: int = 0
    num_computed_tokens: int = 0
    num_adopted_sequences: int = 0
    num_adopted_tokens: int = 0
