"""A step's tokens laid end to end, as arrays that may be padded to the size of a captured graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from worker_svc.core.residents import Row
from worker_svc.kernels import Ragged
from worker_svc.model.batch import Batch
from worker_svc.step.row_arrays import RowArrays
from worker_svc.step.rows import RowTable
from worker_svc.step.staging import pack

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class FlatStep:
    """T tokens of R rows, of which S are sampled.

    Attributes:
        token_row_ids, positions: ``[T]``, each token's row in the table and index in its sequence.
        row_ids: ``[R]``, where the rows lie in the table.
        query_starts: ``[R + 1]``, cumulative token counts.
        context_lens: ``[R]``, tokens in each row's cache after this step.
        sample_positions: ``[S]``, indices into T.
        max_query_len, max_context_len: at least the largest of the rows'.
        num_context: key positions that attention reads in each layer.
    """

    token_row_ids: Array
    positions: Array
    row_ids: Array
    query_starts: Array
    context_lens: Array
    sample_positions: Array
    max_query_len: int
    max_context_len: int
    num_context: int

    @classmethod
    def of(cls, rows: Sequence[Row]) -> FlatStep:
        arrays = RowArrays.of(rows)
        ends, context_lens = arrays.counts.cumsum(), arrays.context_lens
        token_row_ids, positions = arrays.flat_tokens()
        return cls(
            token_row_ids=token_row_ids,
            positions=positions,
            row_ids=arrays.row_ids,
            query_starts=np.concatenate(((0,), ends)),
            context_lens=context_lens,
            sample_positions=ends[arrays.is_sampled] - 1,
            max_query_len=int(arrays.counts.max(initial=0)),
            max_context_len=int(context_lens.max(initial=0)),
            num_context=int(context_lens.sum()),
        )

    @property
    def arrays(self) -> tuple[Array, ...]:
        """What is copied to the device, in the order in which ``flat_batch`` takes it."""
        return (
            self.token_row_ids,
            self.positions,
            self.row_ids,
            self.query_starts,
            self.context_lens,
            self.sample_positions,
        )

    @property
    def num_tokens(self) -> int:
        """T."""
        return len(self.token_row_ids)

    @property
    def num_rows(self) -> int:
        """R."""
        return len(self.row_ids)

    def padded(self, num_tokens: int, num_rows: int, nobody: int) -> tuple[Array, ...]:
        """``arrays`` for ``num_tokens`` tokens and ``num_rows`` rows, all of them sampled.

        What is added belongs to the row ``nobody``: tokens outside of every row, and rows
        without tokens, whose samples mean nothing.
        """
        tokens, rows = num_tokens - self.num_tokens, num_rows - self.num_rows
        samples = num_rows - len(self.sample_positions)
        return (
            np.pad(self.token_row_ids, (0, tokens), constant_values=nobody),
            np.pad(self.positions, (0, tokens)),
            np.pad(self.row_ids, (0, rows), constant_values=nobody),
            np.pad(self.query_starts, (0, rows), mode="edge"),
            np.pad(self.context_lens, (0, rows)),
            np.pad(self.sample_positions, (0, samples)),
        )

    def batch(self, table: RowTable) -> Batch:
        """The step on the device of ``table``, in one copy."""
        bounds = (self.max_query_len, self.max_context_len)
        return flat_batch(pack(self.arrays, table.device), table, bounds, self.num_context)


def flat_batch(
    packed: Sequence[Tensor], table: RowTable, bounds: tuple[int, int], num_context: int = 0
) -> Batch:
    """``packed`` as ``FlatStep.arrays``; ``bounds``: the longest query and context at most."""
    token_row_ids, positions, row_ids, query_starts, context_lens, sampled = packed
    token_ids, slots = table.locate(token_row_ids, positions)
    ragged = Ragged(
        row_ids=row_ids,
        query_starts=query_starts,
        context_lens=context_lens,
        block_tables=table.block_tables,
        max_query_len=bounds[0],
        max_context_len=bounds[1],
    )
    return Batch(
        token_ids=token_ids,
        positions=positions,
        slots=slots,
        context=ragged,
        sample_positions=sampled.long(),
        num_context=num_context,
    )
