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
from worker_svc.kernels.choice import SampledRows
from worker_svc.model.batch import Batch
from worker_svc.step.row_arrays import RowArrays
from worker_svc.step.rows import RowTable
from worker_svc.step.staging import pack

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class FlatStep:
    """T tokens of R rows, of which S are sampled; by K tokens' states prompts are scored.

    Attributes:
        token_row_ids, positions: ``[T]``, each token's row in the table and index in its sequence.
        row_ids: ``[R]``, where the rows lie in the table.
        query_starts: ``[R + 1]``, cumulative token counts.
        context_lens: ``[R]``, tokens in each row's cache after this step.
        sample_positions: ``[S + K]``, indices into T, as ``RowArrays.wanted`` orders them.
        sampled_row_ids, next_positions: ``[S]``, whose token is chosen there and where it goes.
        max_query_len, max_context_len: at least the largest of the rows'.
        num_context: key positions that attention reads in each layer.
    """

    token_row_ids: Array
    positions: Array
    row_ids: Array
    query_starts: Array
    context_lens: Array
    sample_positions: Array
    sampled_row_ids: Array
    next_positions: Array
    max_query_len: int
    max_context_len: int
    num_context: int

    @classmethod
    def of(cls, rows: Sequence[Row]) -> FlatStep:
        """The rows of the longest contexts come last: attention begins with those.

        A device begins with as many as it has room for and fills up with the others: were a long
        one the last to begin, most of the device would wait for it.
        """
        given = RowArrays.of(rows)
        order = np.argsort(given.context_lens, kind="stable")
        arrays = given.take(order)
        ends, context_lens = arrays.counts.cumsum(), arrays.context_lens
        token_row_ids, positions = arrays.flat_tokens()
        last = np.empty_like(order)
        last[order] = ends - 1
        sampled_row_ids, next_positions = given.sampled
        return cls(
            token_row_ids=token_row_ids,
            positions=positions,
            row_ids=arrays.row_ids,
            query_starts=np.concatenate(((0,), ends)),
            context_lens=context_lens,
            sample_positions=given.wanted(last),
            sampled_row_ids=sampled_row_ids,
            next_positions=next_positions,
            max_query_len=int(arrays.counts.max(initial=0)),
            max_context_len=int(context_lens.max(initial=0)),
            num_context=int(context_lens.sum()),
        )

    @property
    def arrays(self) -> tuple[Array, ...]:
        """What is copied to the device, in the order in which ``on_device`` takes it."""
        return (
            self.token_row_ids,
            self.positions,
            self.row_ids,
            self.query_starts,
            self.context_lens,
            self.sample_positions,
            self.sampled_row_ids,
            self.next_positions,
        )

    @property
    def num_tokens(self) -> int:
        """T."""
        return len(self.token_row_ids)

    @property
    def num_rows(self) -> int:
        """R."""
        return len(self.row_ids)

    def paddings(self, nobody: int) -> tuple[int, ...]:
        """What each of ``arrays`` is filled up with in a step of more tokens and rows.

        It belongs to the row ``nobody``: tokens outside of every row, and rows without tokens. Nor
        is there anybody for whom a token would be chosen.
        """
        return nobody, 0, nobody, self.num_tokens, 0, 0, -1, 0

    def on_device(self, table: RowTable) -> tuple[Batch, SampledRows]:
        """The step on the device of ``table``, in one copy."""
        bounds = (self.max_query_len, self.max_context_len)
        return on_device(pack(self.arrays, table.device), table, bounds, self.num_context)


def on_device(
    packed: Sequence[Tensor], table: RowTable, bounds: tuple[int, int], num_context: int = 0
) -> tuple[Batch, SampledRows]:
    """``packed`` as ``FlatStep.arrays``; ``bounds``: the longest query and context at most."""
    token_row_ids, positions, row_ids, query_starts, context_lens, sampled = packed[:6]
    token_ids, slots = table.locate(token_row_ids, positions)
    ragged = Ragged(
        row_ids=row_ids,
        query_starts=query_starts,
        context_lens=context_lens,
        block_tables=table.block_tables,
        max_query_len=bounds[0],
        max_context_len=bounds[1],
    )
    batch = Batch(
        token_ids=token_ids,
        positions=positions,
        slots=slots,
        context=ragged,
        sample_positions=sampled.long(),
        num_context=num_context,
    )
    return batch, SampledRows(*packed[6:])
