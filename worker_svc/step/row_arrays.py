"""What the rows of a step are, in arrays: the host's half of a layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker_svc.core.residents import Row

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class RowArrays:
    """A step's rows, as the host knows them: ``[R]`` each.

    Where they lie in the table, tokens computed before, tokens to compute, whether nothing is
    pending then.
    """

    row_ids: Array
    starts: Array
    counts: Array
    is_sampled: Array

    @classmethod
    def of(cls, rows: Sequence[Row]) -> RowArrays:
        return cls(
            row_ids=np.array([row.resident.row_id for row in rows], dtype=np.int64),
            starts=np.array([row.start for row in rows], dtype=np.int64),
            counts=np.array([row.num_tokens for row in rows], dtype=np.int64),
            is_sampled=np.array([row.is_sampled for row in rows], dtype=np.bool_),
        )

    @property
    def context_lens(self) -> Array:
        return self.starts + self.counts

    def take(self, order: Array) -> RowArrays:
        """The rows at ``order``."""
        fields = (self.row_ids, self.starts, self.counts, self.is_sampled)
        return RowArrays(*(field[order] for field in fields))

    def flat_tokens(self) -> tuple[Array, Array]:
        """Row id and position of every token, row after row."""
        begins = self.counts.cumsum() - self.counts
        positions = np.arange(self.counts.sum()) + (self.starts - begins).repeat(self.counts)
        return self.row_ids.repeat(self.counts), positions
