"""How a step's rows are laid out for the layers, one way for each kind of attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from worker_svc.core.limits import Limits
from worker_svc.core.residents import Row
from worker_svc.kernels import Groups, Rectangle
from worker_svc.step.batch import Batch
from worker_svc.step.flat import FlatStep
from worker_svc.step.rows import RowTable
from worker_svc.step.shares import Shares
from worker_svc.step.staging import pack

Array = NDArray[Any]


class Layout(Protocol):
    """A way to lay out rows."""

    def lay(self, rows: Sequence[Row], table: RowTable, num_dead: int) -> Batch:
        """The rows' next tokens; the last of those that leave nothing pending is sampled.

        ``num_dead`` sequences have left since the worker last held none.
        """

    def largest_rows(self, limits: Limits) -> Sequence[tuple[int, int]]:
        """(tokens, context) of the rows that take as much memory as any step can."""


def layout_for(
    attention: Literal["paged", "grouped", "padded"], batching: Literal["continuous", "static"]
) -> Layout:
    """What ``attention`` takes. In static batches a rectangle keeps the rows that have ended."""
    if attention == "padded":
        return Padded(keeps_dead=batching == "static")
    return Grouped() if attention == "grouped" else Flat()


class Flat:
    """All tokens of all rows laid end to end, for ``paged``."""

    def lay(self, rows: Sequence[Row], table: RowTable, _num_dead: int, /) -> Batch:
        step = FlatStep.of(rows)
        return step.batch(pack(step.arrays, table.device), table)

    def largest_rows(self, limits: Limits) -> Sequence[tuple[int, int]]:
        num_rows = min(limits.max_batch_size, limits.max_step_tokens)
        longest = limits.max_context - 1
        return [(min(limits.max_step_tokens // num_rows, longest), longest)] * num_rows


class Grouped(Flat):
    """As ``Flat``, in an order that brings rows of equal lengths together, for ``grouped``."""

    def lay(self, rows: Sequence[Row], table: RowTable, _num_dead: int, /) -> Batch:
        given = Shares.of(rows)
        order = np.lexsort((given.context_lens, given.counts))
        shares = given.take(order)
        # By row as given: which of the tokens is its last.
        last = np.empty_like(order)
        last[order] = shares.counts.cumsum() - 1
        lines, positions, sampled = pack(
            (*shares.flat_tokens(), last[given.is_sampled]), table.device
        )
        token_ids, slots = table.locate(lines, positions)
        return Batch(
            token_ids=token_ids,
            positions=positions,
            slots=slots,
            context=Groups(shares.lines, shares.counts, shares.context_lens, table.block_tables),
            sample_positions=sampled.long(),
            num_context=int(shares.context_lens.sum()),
        )


class Padded:
    """A rectangle, for ``padded``: every row as long as the longest, its last token repeated.

    With ``keeps_dead`` it has a row for each sequence that has left, too, until none is held any
    more: a copy of the row of the longest context, that writes nothing and is not reported.
    """

    def __init__(self, keeps_dead: bool) -> None:
        self._keeps_dead = keeps_dead

    def lay(self, rows: Sequence[Row], table: RowTable, num_dead: int, /) -> Batch:
        """The logits of dead rows come after the others'."""
        shares = self._with_dead(Shares.of(rows), num_dead)
        width = int(shares.counts.max())
        column, last = np.arange(width), shares.counts[:, None] - 1
        is_written = column <= last
        is_written[len(rows) :] = False
        ends = np.arange(len(last)) * width + shares.counts - 1
        lines, positions, sampled, unwritten = pack(
            (
                shares.lines.repeat(width),
                (shares.starts[:, None] + np.minimum(column, last)).reshape(-1),
                ends[shares.is_sampled],
                np.flatnonzero(~is_written),
            ),
            table.device,
        )
        token_ids, slots = table.locate(lines, positions)
        return Batch(
            token_ids=token_ids,
            positions=positions,
            slots=slots.index_fill_(0, unwritten.long(), -1),
            context=Rectangle(shares.lines, shares.starts, shares.counts, table.block_tables),
            sample_positions=sampled.long(),
            num_context=len(ends) * int(shares.context_lens.max()),
        )

    def _with_dead(self, shares: Shares, num_dead: int) -> Shares:
        if not self._keeps_dead or num_dead == 0:
            return shares
        num_rows = len(shares.lines)
        longest = np.full(num_dead, shares.context_lens.argmax())
        extended = shares.take(np.append(np.arange(num_rows), longest))
        extended.is_sampled[num_rows:] = True
        return extended

    def largest_rows(self, limits: Limits) -> Sequence[tuple[int, int]]:
        """The largest rectangle, of tokens alone: padding and dead rows take the same.

        Dead rows take nothing of a step's tokens: one chunk may stand beside as many as there
        are places.
        """
        most, longest = min(limits.max_batch_size, limits.max_step_tokens), limits.max_context - 1
        if self._keeps_dead:
            return [(min(limits.max_step_tokens, longest), longest)] * limits.max_batch_size

        def width(num_rows: int) -> int:
            return min(limits.max_step_tokens - num_rows + 1, longest)

        num_rows = max(range(1, most + 1), key=lambda n: n * width(n))
        return [(width(num_rows), longest)] * num_rows
