"""Where the tokens of a step stand: rows of different lengths laid end to end, and their blocks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Ragged:
    """The T tokens of R rows, flattened, and where each row's keys and values lie in the cache.

    A row's tokens are the last ``query_starts[r + 1] - query_starts[r]`` of its
    ``context_lens[r]`` tokens: the keys of its own tokens are in the cache already.

    Attributes:
        row_ids: ``[R]`` int32, each row's index in ``block_tables``.
        query_starts: ``[R + 1]`` int32, cumulative token counts; the last one is T.
        context_lens: ``[R]`` int32, tokens in the row's cache after this step's writes.
        block_tables: ``[max_rows, max_blocks_per_row]`` int32, resident; entries past a row's
            last block are never read.
        max_query_len: at least the longest row's number of tokens in this step.
        max_context_len: at least the largest of ``context_lens``.

    A row of no tokens (padding of a captured graph) is allowed: its query_starts are equal. So is a
    row of tokens whose context_len is 0: nothing is read for it.
    """

    row_ids: Tensor
    query_starts: Tensor
    context_lens: Tensor
    block_tables: Tensor
    max_query_len: int
    max_context_len: int

    @property
    def num_rows(self) -> int:
        """R, the number of rows."""
        return self.row_ids.shape[0]

    def check(self) -> None:
        """Assert dtypes and shapes (not values: those may be on a device)."""
        num_rows = self.num_rows
        assert self.row_ids.shape == (num_rows,)
        assert self.query_starts.shape == (num_rows + 1,)
        assert self.context_lens.shape == (num_rows,)
        assert self.block_tables.dim() == 2
        assert self.block_tables.stride(1) == 1
        for tensor in (self.row_ids, self.query_starts, self.context_lens, self.block_tables):
            assert tensor.dtype == torch.int32
        for tensor in (self.row_ids, self.query_starts, self.context_lens):
            assert tensor.is_contiguous()
