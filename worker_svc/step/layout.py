"""How a step's rows are laid out for the layers, one way for each kind of attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from stepserve.protocol.choices import Attention, Batching
from worker_svc.core.limits import Limits
from worker_svc.core.residents import Row
from worker_svc.kernels import Groups, Rectangle
from worker_svc.kernels.choice import SampledRows
from worker_svc.model.batch import Batch
from worker_svc.step.flat import FlatStep
from worker_svc.step.row_arrays import RowArrays
from worker_svc.step.rows import RowTable
from worker_svc.step.staging import pack

Array = NDArray[Any]
# A step's tokens on the device, and whose tokens are chosen after.
Laid = tuple[Batch, SampledRows]


class Layout(Protocol):
    """A way to lay out rows."""

    def make_batch(self, rows: Sequence[Row], table: RowTable, num_dead: int) -> Laid:
        """The rows' next tokens on the device, and which of them are sampled after.

        Of rows that leave nothing pending it is the last one. The batch's last sample positions are
        those by which prompts are scored.

        ``num_dead`` sequences have left since the worker last held none.
        """

    def largest_rows(self, limits: Limits) -> Sequence[tuple[int, int]]:
        """(tokens, context) of the rows that take as much memory as any step can."""


def layout_for(attention: Attention, batching: Batching) -> Layout:
    """What ``attention`` takes. In static batches a rectangle keeps the rows that have ended."""
    if attention == "padded":
        return Padded(keeps_dead=batching == "static")
    return Grouped() if attention == "grouped" else Flat()


class Flat:
    """All tokens of all rows laid end to end, for ``paged``."""

    def make_batch(self, rows: Sequence[Row], table: RowTable, _num_dead: int, /) -> Laid:
        return FlatStep.of(rows).on_device(table)

    def largest_rows(self, limits: Limits) -> Sequence[tuple[int, int]]:
        num_rows = min(limits.max_batch_size, limits.max_step_tokens)
        longest = limits.max_context - 1
        return [(min(limits.max_step_tokens // num_rows, longest), longest)] * num_rows


class Grouped(Flat):
    """As ``Flat``, in an order that brings rows of equal lengths together, for ``grouped``."""

    def make_batch(self, rows: Sequence[Row], table: RowTable, _num_dead: int, /) -> Laid:
        given = RowArrays.of(rows)
        order = np.lexsort((given.context_lens, given.counts))
        arrays = given.take(order)
        # By row as given: which of the tokens is its last.
        last = np.empty_like(order)
        last[order] = arrays.counts.cumsum() - 1
        token_row_ids, positions, sampled, *chosen = pack(
            (*arrays.flat_tokens(), given.wanted(last), *given.sampled), table.device
        )
        token_ids, slots = table.locate(token_row_ids, positions)
        batch = Batch(
            token_ids=token_ids,
            positions=positions,
            slots=slots,
            context=Groups(arrays.row_ids, arrays.counts, arrays.context_lens, table.block_tables),
            sample_positions=sampled.long(),
            num_context=int(arrays.context_lens.sum()),
        )
        return batch, SampledRows(*chosen)


class Padded:
    """A rectangle, for ``padded``: every row as long as the longest, its last token repeated.

    With ``keeps_dead`` it has a row for each sequence that has left, too, until none is held any
    more: a copy of the row of the longest context, that writes nothing and is not reported.
    """

    def __init__(self, keeps_dead: bool) -> None:
        self._keeps_dead = keeps_dead

    def make_batch(self, rows: Sequence[Row], table: RowTable, num_dead: int, /) -> Laid:
        """The logits of dead rows come after the others'."""
        given = RowArrays.of(rows)
        arrays = self._with_dead(given, num_dead)
        width = int(arrays.counts.max())
        column, last = np.arange(width), arrays.counts[:, None] - 1
        is_written = column <= last
        is_written[len(rows) :] = False
        ends = np.arange(len(last)) * width + arrays.counts - 1
        token_row_ids, positions, sampled, unwritten, *chosen = pack(
            (
                arrays.row_ids.repeat(width),
                (arrays.starts[:, None] + np.minimum(column, last)).reshape(-1),
                arrays.wanted(ends),
                np.flatnonzero(~is_written),
                *given.sampled,
            ),
            table.device,
        )
        token_ids, slots = table.locate(token_row_ids, positions)
        batch = Batch(
            token_ids=token_ids,
            positions=positions,
            slots=slots.index_fill_(0, unwritten.long(), -1),
            context=Rectangle(arrays.row_ids, arrays.starts, arrays.counts, table.block_tables),
            sample_positions=sampled.long(),
            num_context=len(ends) * int(arrays.context_lens.max()),
        )
        return batch, SampledRows(*chosen)

    def _with_dead(self, arrays: RowArrays, num_dead: int) -> RowArrays:
        if not self._keeps_dead or num_dead == 0:
            return arrays
        num_rows = len(arrays.row_ids)
        longest = np.full(num_dead, arrays.context_lens.argmax())
        extended = arrays.take(np.append(np.arange(num_rows), longest))
        extended.is_sampled[num_rows:], extended.num_scored[num_rows:] = True, 0
        return extended

    def largest_rows(self, limits: Limits) -> Sequence[tuple[int, int]]:
        """The largest rectangle, of tokens alone: padding and dead rows take the same.

        Dead rows take nothing of a step's tokens: one chunk may stand beside as many as the other
        places of the batch.
        """
        most, longest = min(limits.max_batch_size, limits.max_step_tokens), limits.max_context - 1
        if self._keeps_dead:
            return [(min(limits.max_step_tokens, longest), longest)] * limits.max_batch_size

        def width(num_rows: int) -> int:
            return min(limits.max_step_tokens - num_rows + 1, longest)

        num_rows = max(range(1, most + 1), key=lambda n: n * width(n))
        return [(width(num_rows), longest)] * num_rows
