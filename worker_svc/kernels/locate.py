"""Which tokens a step computes, and where their keys and values go: read off the resident rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class RowTables:
    """The tables on the device that a token's row id points into.

    Attributes:
        token_ids: ``[max_rows, max_context]`` int32.
        block_tables: ``[max_rows, max_blocks_per_row]`` int32.
        has_ended: ``[max_rows]`` int32, 1 for a sequence that is over.
        block_size: tokens in a block.
    """

    token_ids: Tensor
    block_tables: Tensor
    has_ended: Tensor
    block_size: int


def locate_reference(
    row_ids: Tensor, positions: Tensor, tables: RowTables
) -> tuple[Tensor, Tensor]:
    """The tokens at ``positions [T]`` of ``row_ids [T]``, both int32, and their slots.

    Returns:
        Token ids ``[T]`` int64, and slots ``[T]`` int32: below zero, where nothing is written,
        for sequences that have ended.
    """
    size = tables.block_size
    token_ids = tables.token_ids[row_ids, positions].long()
    slots = tables.block_tables[row_ids, positions // size] * size + positions % size
    return token_ids, torch.where(tables.has_ended[row_ids] > 0, -1, slots)
