"""What the attention that gathers has in common: contexts copied out of the cache, and SDPA."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

Integers = NDArray[np.int64]


def gather(cache: Tensor, lines: Tensor) -> Tensor:
    """One head's part of N blocks, ``[N, block_size * D]``: a copy in one pass.

    ``lines`` is ``[N]`` int64, ``block_id * Hkv + head``, of
    ``cache [num_blocks, Hkv, block_size, D]``.
    """
    _, _, block_size, head_dim = cache.shape
    return cache.view(-1, block_size * head_dim).index_select(0, lines)


def attend_dense(
    query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float
) -> Tensor:
    """Attention of ``query [B, Q, Hq, D]`` to ``keys`` and ``values [B, Hkv, S, D]``.

    ``mask`` is what is added to the scores, ``[Q, S]`` or ``[B, 1, Q, S]``. None hides nothing
    from a single query, and what comes after it from each of several (then Q is S).
    Returns ``[B, Q, Hq, D]``. Keys and values are not repeated for the query heads they serve.
    """
    num_rows, query_len, _, head_dim = query.shape
    if query_len > 1:
        mixed = scaled_dot_product_attention(
            query.transpose(1, 2),
            keys,
            values,
            attn_mask=mask,
            is_causal=mask is None,
            scale=scale,
            enable_gqa=True,
        )
        return mixed.transpose(1, 2)
    # The query heads of one KV head become so many queries: its keys are read once for them.
    folded = query.view(num_rows, keys.shape[1], -1, head_dim)
    mixed = scaled_dot_product_attention(folded, keys, values, attn_mask=mask, scale=scale)
    return mixed.reshape(query.shape)


def hiding(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """What to add to the scores: 0 where ``visible``, elsewhere minus infinity."""
    mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return mask.masked_fill_(~visible, float("-inf"))


def to_device(array: NDArray[Any], device: torch.device) -> Tensor:
    """``array`` as int64 on ``device``."""
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.int64)).to(device)
