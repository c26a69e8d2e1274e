"""Ragged attention over a paged cache: prefill chunks and decodes of one step together.

Source: Kwon et al., "Efficient Memory Management for Large Language Model Serving with
PagedAttention", section 4.
"""

from __future__ import annotations

import torch
from torch import Tensor

from worker_svc.kernels.ragged import Ragged

# Queries whose scores are held at once: memory grows with the context, not with its square.
MAX_QUERIES = 128


def paged_attention_reference(
    query: Tensor, k_cache: Tensor, v_cache: Tensor, ragged: Ragged, scale: float, window: int
) -> Tensor:
    """Causal attention of ``query [T, Hq, D]`` to each row's own context, row by row.

    ``k_cache`` and ``v_cache`` are ``[num_blocks, Hkv, block_size, D]`` with Hq a multiple of Hkv.
    A ``window`` above zero limits each token to the last ``window`` positions, its own among them.
    16-bit inputs are computed in float32. Tokens without a context get zeros. Returns
    ``[T, Hq, D]`` in the query's dtype.
    """
    output = torch.zeros_like(query)
    starts = ragged.query_starts.tolist()
    lengths = ragged.context_lens.tolist()
    for row, row_id in enumerate(ragged.row_ids.tolist()):
        start, end = starts[row], starts[row + 1]
        if start == end or lengths[row] == 0:
            continue
        table = ragged.block_tables[row_id]
        keys = _row_context(k_cache, table, lengths[row])
        values = _row_context(v_cache, table, lengths[row])
        position = lengths[row] - (end - start)
        for first in range(start, end, MAX_QUERIES):
            part = query[first : min(first + MAX_QUERIES, end)]
            seen = position + first - start + part.shape[0]
            mixed = _attend(part, keys[:, :seen], values[:, :seen], scale, window)
            output[first : first + part.shape[0]] = mixed
    return output


def check_attention(query: Tensor, k_cache: Tensor, v_cache: Tensor, ragged: Ragged) -> None:
    """Assert the shapes, dtypes and strides that every implementation relies on."""
    ragged.check()
    assert query.dim() == 3
    assert query.stride(2) == 1
    assert k_cache.dim() == 4
    assert k_cache.shape == v_cache.shape
    assert k_cache.is_contiguous()
    assert v_cache.is_contiguous()
    assert query.dtype == k_cache.dtype == v_cache.dtype
    assert query.shape[2] == k_cache.shape[3]
    assert query.shape[1] % k_cache.shape[1] == 0


def _row_context(cache: Tensor, table: Tensor, context_len: int) -> Tensor:
    """One row's keys or values, ``[Hkv, context_len, D]``, at least float32."""
    _, num_kv_heads, block_size, head_dim = cache.shape
    num_blocks = -(-context_len // block_size)
    blocks = cache[table[:num_blocks].long()].transpose(0, 1)
    context = blocks.reshape(num_kv_heads, num_blocks * block_size, head_dim)[:, :context_len]
    return context.to(torch.promote_types(cache.dtype, torch.float32))


def _attend(query: Tensor, keys: Tensor, values: Tensor, scale: float, window: int) -> Tensor:
    query_len, num_heads, head_dim = query.shape
    num_kv_heads, context_len, _ = keys.shape
    grouped = query.to(keys.dtype).view(query_len, num_kv_heads, -1, head_dim)
    scores = torch.einsum("qkgd,ksd->kgqs", grouped, keys) * scale
    key_at = torch.arange(context_len, device=query.device)
    query_at = key_at[context_len - query_len :, None]
    visible = key_at <= query_at
    if window > 0:
        visible &= key_at > query_at - window
    scores = scores.masked_fill(~visible, float("-inf"))
    mixed = torch.einsum("kgqs,ksd->qkgd", scores.softmax(-1), values)
    return mixed.reshape(query_len, num_heads, head_dim).to(query.dtype)
