"""Attention over a padded rectangle: every row as long as the longest, what is no context masked.

What a batch costs without selective batching, as in transformers' ``generate``: the baseline.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from worker_svc.kernels.attention_dense import Integers, attend_dense, gather, hiding, to_device


@dataclass(frozen=True, slots=True)
class _Reading:
    """What to gather for all rows, see ``gather``; ``stale`` are the slots to be zeroed after.

    ``mask`` is that of ``attend_dense``. ``num_keys`` are read of each row.
    """

    lines: Tensor
    stale: Tensor
    mask: Tensor | None
    num_keys: int

    def context(self, cache: Tensor, num_rows: int) -> Tensor:
        """The rows' keys or values, ``[rows, Hkv, num_keys, D]``, zero where none are.

        Zero, because a weight of 0 times a NaN that another sequence left would still be NaN.
        """
        _, num_kv_heads, _, head_dim = cache.shape
        gathered = gather(cache, self.lines).view(-1, head_dim)
        if self.stale.shape[0]:
            gathered.index_fill_(0, self.stale, 0)
        return gathered.view(num_rows, num_kv_heads, -1, head_dim)[:, :, : self.num_keys]


@dataclass(frozen=True, slots=True)
class Rectangle:
    """R rows of Q tokens each: a row's own tokens first, then the last one again as padding.

    Attributes:
        row_ids: ``[R]``, on the host: each row's index in ``block_tables``.
        starts: ``[R]``, on the host: tokens in its cache before this step.
        query_lens: ``[R]``, on the host: its own tokens in this step, 1 to Q, one row has Q.
        block_tables: ``[max_rows, max_blocks_per_row]`` int32, resident; entries past a row's
            last block are never read.
    """

    row_ids: Integers
    starts: Integers
    query_lens: Integers
    block_tables: Tensor
    _readings: dict[int, _Reading] = field(default_factory=dict, init=False, repr=False)

    def reading(self, window: int, cache: Tensor) -> _Reading:
        """What layers of this ``window`` read of a ``cache``; made once a step."""
        if window not in self._readings:
            self._readings[window] = self._read(window, cache)
        return self._readings[window]

    def _read(self, window: int, cache: Tensor) -> _Reading:
        _, num_kv_heads, block_size, _ = cache.shape
        lengths = self.starts + self.query_lens
        oldest = np.maximum(0, self.starts - window + 1) if window > 0 else 0 * self.starts
        first = oldest // block_size
        num_keys = int((lengths - first * block_size).max())
        num_blocks = -(-num_keys // block_size)
        # A block that a row lacks is read from its last full one: nobody else's is touched.
        wanted = first[:, None] + np.arange(num_blocks)
        has = wanted < -(-lengths // block_size)[:, None]
        source = np.where(has, wanted, np.maximum(lengths // block_size - 1, 0)[:, None])
        at = source[:, :, None] * block_size + np.arange(block_size)
        stale = (at >= lengths[:, None, None]).reshape(len(lengths), -1)
        tables = self.block_tables[
            to_device(self.row_ids, cache.device)[:, None], to_device(source, cache.device)
        ]
        heads = torch.arange(num_kv_heads, device=cache.device)[:, None]
        return _Reading(
            lines=(tables[:, None] * num_kv_heads + heads).flatten(),
            stale=to_device(_of_all_heads(stale, num_kv_heads), cache.device),
            mask=self._mask(window, first * block_size, num_keys, cache),
            num_keys=num_keys,
        )

    def _mask(
        self, window: int, first_keys: Integers, num_keys: int, like: Tensor
    ) -> Tensor | None:
        """``attend_dense``'s, ``[R, 1, Q, num_keys]``; whole prompts need none: they are causal."""
        query_len = int(self.query_lens.max())
        is_causal = not self.starts.any() and not 0 < window < query_len
        if is_causal and query_len > 1:
            return None
        rows = np.stack((self.starts, self.query_lens - 1, first_keys))[:, :, None, None]
        starts, last, first = to_device(rows, like.device)
        query_at = starts + torch.arange(query_len, device=like.device)[:, None].minimum(last)
        key_at = first + torch.arange(num_keys, device=like.device)
        visible = key_at <= query_at
        if window > 0:
            visible &= key_at > query_at - window
        return hiding(visible[:, None], like.dtype)


def _of_all_heads(
    stale: np.ndarray[tuple[int, ...], np.dtype[np.bool_]], num_heads: int
) -> Integers:
    """Where a row is ``stale [R, keys]``, as indices into ``[R, heads, keys]`` flattened."""
    row, key = stale.nonzero()
    heads = np.arange(num_heads)[:, None]
    return ((row * num_heads + heads) * stale.shape[1] + key).reshape(-1)


def padded_attention(
    query: Tensor, k_cache: Tensor, v_cache: Tensor, rectangle: Rectangle, scale: float, window: int
) -> Tensor:
    """``paged_attention`` (see ``Kernels``) over rows laid out as a ``Rectangle``.

    Any floating dtype, on any device; 16-bit weights are rounded before they meet the values.
    What comes out for padding means nothing.
    """
    num_rows = len(rectangle.row_ids)
    reading = rectangle.reading(window, k_cache)
    mixed = attend_dense(
        query.view(num_rows, -1, *query.shape[1:]),
        reading.context(k_cache, num_rows),
        reading.context(v_cache, num_rows),
        reading.mask,
        scale,
    )
    return mixed.reshape(query.shape)
