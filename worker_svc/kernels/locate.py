"""Which tokens a step computes, and where their keys and values go: read off the resident rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class RowTables:
    """The tables on the device that a token's line points into.

    Attributes:
        token_ids: ``[lines, max_context]`` int32.
        block_tables: ``[lines, max_blocks_per_row]`` int32.
        has_ended: ``[lines]`` int32, 1 for a sequence that is over.
        block_size: tokens in a block.
    """

    token_ids: Tensor
    block_tables: Tensor
    has_ended: Tensor
    block_size: int


def locate_reference(lines: Tensor, positions: Tensor, tables: RowTables) -> tuple[Tensor, Tensor]:
    """The tokens at ``positions [T]`` of ``lines [T]``, both int32, and their slots.

    Returns:
        Token ids ``[T]`` int64, and slots ``[T]`` int32: below zero, where nothing is written,
        for sequences that have ended.
    """
    size = tables.block_size
    token_ids = tables.token_ids[lines, positions].long()
    slots = tables.block_tables[lines, positions // size] * size + positions % size
    return token_ids, torch.where(tables.has_ended[lines] > 0, -1, slots)
