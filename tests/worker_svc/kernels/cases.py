"""Small random inputs that every implementation of a kernel is tested on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from worker_svc.kernels import Ragged
from worker_svc.kernels.attention import paged_attention_reference
from worker_svc.kernels.restrict import Restriction


@dataclass(frozen=True)
class AttentionCase:
    """Rows of (query_len, context_len) and the shapes around them."""

    rows: tuple[tuple[int, int], ...]
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 16
    block_size: int = 8
    window: int = 0
    dtype: torch.dtype = torch.float32
    seed: int = 0

    def __str__(self) -> str:
        rows = "_".join(f"{query_len}of{context_len}" for query_len, context_len in self.rows)
        heads = f"h{self.num_heads}-{self.num_kv_heads}-d{self.head_dim}"
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{rows}-{heads}-b{self.block_size}-w{self.window}-{dtype}"

    def build(self) -> dict[str, Any]:
        """The arguments of ``paged_attention``: shuffled blocks and table rows, NaN elsewhere."""
        generator = torch.Generator().manual_seed(self.seed)
        num_rows = len(self.rows)
        max_blocks = max(-(-context_len // self.block_size) for _, context_len in self.rows) + 1
        num_blocks = num_rows * max_blocks + 3
        shape = (2, num_blocks, self.num_kv_heads, self.block_size, self.head_dim)
        cache = torch.randn(shape, generator=generator, dtype=torch.float64)
        free = torch.randperm(num_blocks, generator=generator).int()
        tables = free[: num_rows * max_blocks].view(num_rows, max_blocks)
        row_ids = torch.randperm(num_rows, generator=generator).int()
        for row, (_, context_len) in enumerate(self.rows):
            self._poison(cache, tables[row_ids[row]], context_len)
        query_lens = torch.tensor([query_len for query_len, _ in self.rows])
        query_shape = (int(query_lens.sum()), self.num_heads, self.head_dim)
        query = torch.randn(query_shape, generator=generator, dtype=torch.float64)
        ragged = Ragged(
            row_ids=row_ids,
            query_starts=torch.cat((torch.zeros(1), query_lens.cumsum(0))).int(),
            context_lens=torch.tensor([context_len for _, context_len in self.rows]).int(),
            block_tables=tables,
            max_query_len=int(query_lens.max()),
            max_context_len=max(context_len for _, context_len in self.rows),
        )
        return {
            "query": query.to(self.dtype),
            "k_cache": cache[0].to(self.dtype),
            "v_cache": cache[1].to(self.dtype),
            "ragged": ragged,
            "scale": self.head_dim**-0.5,
            "window": self.window,
        }

    def _poison(self, cache: Tensor, table: Tensor, context_len: int) -> None:
        """NaN in every slot after a row's context, where a stale token could lie."""
        for block, block_id in enumerate(table.tolist()):
            filled = min(max(context_len - block * self.block_size, 0), self.block_size)
            cache[:, block_id, :, filled:] = float("nan")


MIXED = ((1, 9), (5, 5), (1, 40), (7, 23), (1, 1), (20, 33))

# What pads a captured graph: rows of no tokens, and rows whose sequences have ended.
PADDED = AttentionCase(((1, 40), (1, 0), (3, 20), (0, 0), (2, 0), (1, 90), (0, 0)))

ATTENTION_CASES = (
    AttentionCase(MIXED),
    AttentionCase(MIXED, window=6),
    AttentionCase(MIXED, num_heads=9, num_kv_heads=3, head_dim=24, block_size=16),
    AttentionCase(MIXED, num_heads=7, num_kv_heads=1, head_dim=16, window=17),
    AttentionCase(MIXED, num_heads=3, num_kv_heads=3, head_dim=80, block_size=32),
    AttentionCase(((1, 100), (1, 3)), num_heads=14, num_kv_heads=2, head_dim=64, block_size=16),
    AttentionCase(((1, 200), (0, 7), (2, 200)), num_heads=2, num_kv_heads=1, window=64),
    AttentionCase(((3, 70), (1, 64), (1, 65), (64, 64)), head_dim=24, block_size=2),
    AttentionCase(((1, 1),), num_heads=1, num_kv_heads=1, block_size=1),
)


def with_dtype(dtype: torch.dtype) -> tuple[AttentionCase, ...]:
    """Every attention case in one dtype."""
    return tuple(replace(case, dtype=dtype) for case in ATTENTION_CASES)


@st.composite
def random_cases(draw: st.DrawFn) -> AttentionCase:
    """A case of any shape, in float64."""
    lengths = st.tuples(st.integers(0, 40), st.integers(0, 100)).map(lambda q: (q[0], q[0] + q[1]))
    rows = draw(st.lists(lengths, min_size=1, max_size=5).map(tuple))
    num_kv_heads = draw(st.integers(1, 3))
    return AttentionCase(
        rows=rows,
        num_heads=num_kv_heads * draw(st.integers(1, 5)),
        num_kv_heads=num_kv_heads,
        head_dim=2 * draw(st.integers(1, 20)),
        block_size=draw(st.sampled_from([1, 3, 8, 16, 32, 128])),
        window=draw(st.sampled_from([0, 1, 5, 64, 70])),
        dtype=torch.float64,
    )


def check_padded(paged_attention: Callable[..., Tensor]) -> None:
    """Rows without a context read nothing, give zeros, and leave the others as they are."""
    arguments = PADDED.build()
    ragged = arguments["ragged"]
    expected = paged_attention_reference(**arguments)
    for row, (_, context_len) in enumerate(PADDED.rows):
        if context_len == 0:
            ragged.block_tables[ragged.row_ids[row]] = 1 << 30
    drawn = paged_attention(**arguments)
    torch.testing.assert_close(drawn, expected, rtol=1e-5, atol=2e-6)
    for row in (1, 4):
        assert (drawn[ragged.query_starts[row] : ragged.query_starts[row + 1]] == 0).all()


def restriction_case(
    num_tokens: int, dtype: torch.dtype, begin: int = 0
) -> tuple[Tensor, Restriction]:
    """Five rows of logits, and masks for three of them: one allows nothing, one nearly all."""
    generator = torch.Generator().manual_seed(num_tokens)
    logits = torch.randn((5, num_tokens), generator=generator).to(dtype)
    num_words = -(-(begin + num_tokens) // 32)
    drawn = torch.randint(-(2**31), 2**31, (3, num_words), generator=generator).int()
    drawn[1], drawn[2, 1:] = 0, -1
    floors = torch.tensor([-3e4, torch.nan, -3e4])
    return logits, Restriction(torch.tensor([3, 0, 4], dtype=torch.int32), drawn, floors)
