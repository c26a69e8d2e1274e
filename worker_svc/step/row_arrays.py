"""What the rows of a step are, in arrays: the host's half of a layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker_svc.core.residents import Row

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class RowArrays:
    """A step's rows, as the host knows them: ``[R]`` each.

    Where they lie in the table, tokens computed before, tokens to compute, whether nothing is
    pending then, where the token that is chosen goes, and behind how many of the tokens to compute,
    from the first one on, the next one's log-probability is wanted.
    """

    row_ids: Array
    starts: Array
    counts: Array
    is_sampled: Array
    next_positions: Array
    num_scored: Array

    @classmethod
    def of(cls, rows: Sequence[Row]) -> RowArrays:
        return cls(
            row_ids=np.array([row.resident.row_id for row in rows], dtype=np.int64),
            starts=np.array([row.start for row in rows], dtype=np.int64),
            counts=np.array([row.num_tokens for row in rows], dtype=np.int64),
            is_sampled=np.array([row.is_sampled for row in rows], dtype=np.bool_),
            next_positions=np.array([row.position for row in rows], dtype=np.int64),
            num_scored=np.array([row.num_scored for row in rows], dtype=np.int64),
        )

    @property
    def context_lens(self) -> Array:
        return self.starts + self.counts

    @property
    def sampled(self) -> tuple[Array, Array]:
        """Row ids and next positions of those for which a token is chosen."""
        return self.row_ids[self.is_sampled], self.next_positions[self.is_sampled]

    def wanted(self, last: Array) -> Array:
        """Which tokens' hidden states are wanted: of the sampled rows the last one's, and then,
        row after row, those by which its prompt is scored.

        ``last [R]`` is where each row's last token lies; those before it lie before it.
        """
        sampled = last[self.is_sampled]
        if not self.num_scored.any():
            return sampled
        counts = self.num_scored
        begins = last - self.counts + 1 - (counts.cumsum() - counts)
        return np.concatenate((sampled, begins.repeat(counts) + np.arange(counts.sum())))

    def take(self, order: Array) -> RowArrays:
        """The rows at ``order``."""
        return RowArrays(*(getattr(self, field.name)[order] for field in fields(self)))

    def flat_tokens(self) -> tuple[Array, Array]:
        """Row id and position of every token, row after row."""
        begins = self.counts.cumsum() - self.counts
        positions = np.arange(self.counts.sum()) + (self.starts - begins).repeat(self.counts)
        return self.row_ids.repeat(self.counts), positions
