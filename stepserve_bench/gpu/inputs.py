"""Random inputs of the kernels, made on the device that computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor

from worker_svc.kernels import Ragged


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """Rows of (tokens, context), and the shapes around them.

    ``bound`` is the longest context that block tables have room for and that a launch must expect,
    as in a captured graph; 0: the longest there is.
    """

    rows: tuple[tuple[int, int], ...]
    num_heads: int
    num_kv_heads: int
    head_dim: int = 128
    block_size: int = 16
    window: int = 0
    dtype: torch.dtype = torch.bfloat16
    bound: int = 0

    def __str__(self) -> str:
        shown = " ".join(f"{count}/{context}" for count, context in self.rows[:6])
        more = f" +{len(self.rows) - 6}" if len(self.rows) > 6 else ""
        dtype = str(self.dtype).removeprefix("torch.")
        heads = f"heads {self.num_heads}/{self.num_kv_heads}x{self.head_dim}"
        return f"{shown}{more}, {heads}, block {self.block_size}, window {self.window}, {dtype}"

    @property
    def num_tokens(self) -> int:
        return sum(count for count, _ in self.rows)

    @property
    def scale(self) -> float:
        return float(self.head_dim**-0.5)

    @property
    def cache_bytes(self) -> int:
        """Bytes of keys and values that attention must read."""
        itemsize = self.dtype.itemsize
        context = sum(min(length, self._reach(count, length)) for count, length in self.rows)
        return 2 * context * self.num_kv_heads * self.head_dim * itemsize

    def _reach(self, count: int, context: int) -> int:
        return min(context, self.window + count - 1) if self.window else context

    @property
    def traffic_bytes(self) -> int:
        """``cache_bytes``, with the queries read and the output written."""
        line = self.num_heads * self.head_dim * self.dtype.itemsize
        return self.cache_bytes + 2 * self.num_tokens * line


@dataclass(frozen=True, slots=True)
class AttentionInputs:
    """The arguments of ``paged_attention``."""

    query: Tensor
    k_cache: Tensor
    v_cache: Tensor
    ragged: Ragged
    scale: float
    window: int

    def widened(self) -> AttentionInputs:
        """The same numbers in float64."""
        tensors = (self.query, self.k_cache, self.v_cache)
        query, k_cache, v_cache = (tensor.double() for tensor in tensors)
        return replace(self, query=query, k_cache=k_cache, v_cache=v_cache)

    def arguments(self) -> tuple[Tensor, Tensor, Tensor, Ragged, float, int]:
        return self.query, self.k_cache, self.v_cache, self.ragged, self.scale, self.window


def attention_inputs(
    shape: AttentionShape, device: torch.device, seed: int = 0, is_poisoned: bool = False
) -> AttentionInputs:
    """Random inputs whose blocks lie anywhere; poisoned: NaN wherever no key of a context is."""
    generator = torch.Generator(device).manual_seed(seed)
    ragged, num_blocks = ragged_rows(shape, device)
    sizes = (2, num_blocks, shape.num_kv_heads, shape.block_size, shape.head_dim)
    cache = torch.randn(sizes, generator=generator, device=device).to(shape.dtype)
    if is_poisoned:
        _poison(cache, ragged, shape.block_size)
    query_sizes = (shape.num_tokens, shape.num_heads, shape.head_dim)
    query = torch.randn(query_sizes, generator=generator, device=device).to(shape.dtype)
    return AttentionInputs(query, cache[0], cache[1], ragged, shape.scale, shape.window)


def ragged_rows(shape: AttentionShape, device: torch.device) -> tuple[Ragged, int]:
    """The rows, their blocks shuffled, and the number of blocks in all."""
    counts, contexts = zip(*shape.rows, strict=True)
    longest = max(contexts)
    width, num_rows = -(-longest // shape.block_size), len(shape.rows)
    bound = max(shape.bound, longest)
    order = torch.randperm(num_rows * width, generator=torch.Generator().manual_seed(1))
    tables = torch.zeros((num_rows, -(-bound // shape.block_size)), dtype=torch.int32)
    tables[:, :width] = order.view(num_rows, width)

    def on_device(values: Sequence[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int32, device=device)

    ragged = Ragged(
        row_ids=on_device(range(num_rows)),
        query_starts=on_device([0, *accumulate(counts)]),
        context_lens=on_device(contexts),
        block_tables=tables.to(device),
        max_query_len=max(counts),
        max_context_len=bound,
    )
    return ragged, num_rows * width


def _poison(cache: Tensor, ragged: Ragged, block_size: int) -> None:
    tables = ragged.block_tables.long()
    positions = torch.arange(tables.shape[1] * block_size, device=cache.device)
    is_read = (positions < ragged.context_lens[:, None]).view(*tables.shape, block_size)
    # Summed: the unused ends of tables name block 0, which may be somebody's.
    readers = torch.zeros(cache.shape[1], block_size, dtype=torch.int32, device=cache.device)
    readers.index_put_((tables,), is_read.int(), accumulate=True)
    cache.masked_fill_((readers == 0)[None, :, None, :, None], float("nan"))
