"""Attention in groups of rows of equal length: no padding, one call a group.

Source: Yu et al., "Orca", section 4.2, selective batching. Requests whose attention has the same
shape can share a call; the token-wise layers take all of them at once anyway. The baseline between
``padded`` and ``paged``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from worker_svc.kernels.attention_dense import Integers, attend_dense, gather, hiding, to_device


@dataclass(frozen=True, slots=True)
class _Group:
    """Neighbouring rows of equal lengths, and where in what was gathered their keys lie.

    ``view`` is the size ``[rows, Hkv, keys, D]``, the strides and the offset: one call makes it
    where slices would take three, for each group in each layer. ``mask`` is ``attend_dense``'s.
    """

    num_rows: int
    query_len: int
    tokens: slice
    view: tuple[tuple[int, ...], tuple[int, ...], int]
    mask: Tensor | None


@dataclass(frozen=True, slots=True)
class _Reading:
    """What to gather for all groups, see ``gather``, and the groups."""

    lines: Tensor
    groups: tuple[_Group, ...]


@dataclass(frozen=True, slots=True)
class Groups:
    """The T tokens of R rows laid end to end, rows of equal lengths beside each other.

    A row's tokens are the last ``query_lens[r]`` of its ``context_lens[r]`` tokens: the keys of
    its own tokens are in the cache already.

    Attributes:
        row_ids: ``[R]``, on the host: each row's index in ``block_tables``.
        query_lens: ``[R]``, on the host: its tokens in this step, at least one.
        context_lens: ``[R]``, on the host: tokens in its cache after this step's writes.
        block_tables: ``[max_rows, max_blocks_per_row]`` int32, resident; entries past a row's
            last block are never read.
    """

    row_ids: Integers
    query_lens: Integers
    context_lens: Integers
    block_tables: Tensor
    _readings: dict[int, _Reading] = field(default_factory=dict, init=False, repr=False)

    def reading(self, window: int, cache: Tensor) -> _Reading:
        """What layers of this ``window`` read of a ``cache``; made once a step."""
        if window not in self._readings:
            self._readings[window] = self._read(window, cache)
        return self._readings[window]

    def _read(self, window: int, cache: Tensor) -> _Reading:
        _, num_kv_heads, block_size, _ = cache.shape
        first = self._first_keys(window) // block_size
        num_blocks = -(-self.context_lens // block_size) - first
        # By row, head, block: the rows of a group lie behind one another.
        sizes = num_blocks * num_kv_heads
        row = np.arange(len(sizes)).repeat(sizes)
        within = np.arange(len(row)) - (sizes.cumsum() - sizes)[row]
        head, block = within // num_blocks[row], first[row] + within % num_blocks[row]
        at = to_device(np.stack((self.row_ids[row], block, head)), cache.device)
        lines = self.block_tables[at[0], at[1]] * num_kv_heads + at[2]
        return _Reading(lines, tuple(self._groups(window, cache, sizes)))

    def _first_keys(self, window: int) -> Integers:
        """The first position that any of a row's tokens sees."""
        if window == 0:
            return np.zeros_like(self.context_lens)
        oldest: Integers = self.context_lens - self.query_lens - window + 1
        return oldest.clip(min=0)

    def _groups(self, window: int, cache: Tensor, sizes: Integers) -> Iterator[_Group]:
        _, num_kv_heads, block_size, head_dim = cache.shape
        lengths = np.stack((self.query_lens, self.context_lens))
        begins = np.flatnonzero((np.diff(lengths, prepend=0) != 0).any(0))
        token_ends, block_ends = self.query_lens.cumsum(), sizes.cumsum()
        for begin, end in zip(begins, [*begins[1:], len(sizes)], strict=True):
            query_len, context_len = int(self.query_lens[begin]), int(self.context_lens[begin])
            first = int(self._first_keys(window)[begin])
            num_slots = int(sizes[begin]) // num_kv_heads * block_size
            before = int(block_ends[begin] - sizes[begin]) * block_size + first % block_size
            yield _Group(
                num_rows=int(end - begin),
                query_len=query_len,
                tokens=slice(int(token_ends[begin]) - query_len, int(token_ends[end - 1])),
                view=(
                    (int(end - begin), num_kv_heads, context_len - first, head_dim),
                    (num_kv_heads * num_slots * head_dim, num_slots * head_dim, head_dim, 1),
                    before * head_dim,
                ),
                mask=_mask((query_len, context_len), first, window, cache),
            )


def _mask(lengths: tuple[int, int], first: int, window: int, like: Tensor) -> Tensor | None:
    """``attend_dense``'s, from the key at ``first`` on; ``lengths`` are query's and context's."""
    query_len, context_len = lengths
    if query_len == 1 or (query_len == context_len and not 0 < window < context_len):
        return None
    key_at = torch.arange(first, context_len, device=like.device)
    query_at = torch.arange(context_len - query_len, context_len, device=like.device)[:, None]
    visible = key_at <= query_at
    if window > 0:
        visible &= key_at > query_at - window
    return hiding(visible, like.dtype)


def grouped_attention(
    query: Tensor, k_cache: Tensor, v_cache: Tensor, groups: Groups, scale: float, window: int
) -> Tensor:
    """``paged_attention`` (see ``Kernels``) over rows laid out as ``Groups``.

    Any floating dtype, on any device; 16-bit weights are rounded before they meet the values.
    """
    num_heads, head_dim = query.shape[1:]
    reading = groups.reading(window, k_cache)
    keys, values = gather(k_cache, reading.lines), gather(v_cache, reading.lines)
    mixed = [
        attend_dense(
            query[group.tokens].view(group.num_rows, group.query_len, num_heads, head_dim),
            keys.as_strided(*group.view),
            values.as_strided(*group.view),
            group.mask,
            scale,
        ).reshape(-1, num_heads, head_dim)
        for group in reading.groups
    ]
    return mixed[0] if len(mixed) == 1 else torch.cat(mixed)
