"""The Triton kernels against their references, in Triton's interpreter.

Run by ``test_interpreter.py`` in a process of its own: kernels stay interpreted once they have
been made so. The interpreter cuts float32 to bfloat16 where a GPU rounds, and the one of Triton 3.7
multiplies matrices of bfloat16 as if their bits were integers: bfloat16 is compared loosely and
not in attention; float16 stands for it, also in the order of roundings.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.worker_svc.kernels.cases import (
    ATTENTION_CASES,
    MIXED,
    AttentionCase,
    check_padded,
    restriction_case,
)
from worker_svc.kernels import HeadNorms, RotaryWrite, attention_triton, select
from worker_svc.kernels.attention_tiles import ChunkTile, DecodeTile, Tiles
from worker_svc.kernels.attention_triton import AttentionCall, attend_paged
from worker_svc.kernels.locate import RowTables

TRITON, TORCH = select("triton", "cpu"), select("torch", "cpu")
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
TOLERANCE = {
    torch.float32: {"rtol": 1e-5, "atol": 2e-6},
    torch.float16: {"rtol": 2e-3, "atol": 2e-3},
    torch.bfloat16: {"rtol": 2e-2, "atol": 2e-2},
}
# Where rounding goes step by step, float16 agrees to a bit or two, by the order of a sum.
STEPWISE = {**TOLERANCE, torch.float16: {"rtol": 2e-3, "atol": 1e-6}}


def check_attention(case: AttentionCase) -> None:
    arguments = case.build()
    expected = TORCH.paged_attention(*arguments.values())
    drawn = TRITON.paged_attention(*arguments.values())
    torch.testing.assert_close(drawn, expected, **TOLERANCE[case.dtype])


@pytest.mark.parametrize("case", ATTENTION_CASES, ids=str)
def test_attention(case: AttentionCase) -> None:
    check_attention(case)


def test_attention_in_16_bits() -> None:
    check_attention(replace(ATTENTION_CASES[2], dtype=torch.float16))


@st.composite
def cases(draw: st.DrawFn) -> AttentionCase:
    lengths = st.tuples(st.integers(0, 20), st.integers(1, 60)).map(lambda q: (q[0], q[0] + q[1]))
    decodes = st.integers(1, 100).map(lambda context_len: (1, context_len))
    rows = draw(st.lists(st.one_of(lengths, decodes), min_size=1, max_size=3).map(tuple))
    num_kv_heads = draw(st.integers(1, 2))
    return AttentionCase(
        rows=rows,
        num_heads=num_kv_heads * draw(st.integers(1, 5)),
        num_kv_heads=num_kv_heads,
        head_dim=draw(st.sampled_from([16, 24, 64, 80])),
        block_size=draw(st.sampled_from([8, 16, 32])),
        window=draw(st.sampled_from([0, 0, 1, 30, 64])),
    )


@pytest.mark.parametrize("count", [10, pytest.param(200, marks=pytest.mark.long)])
def test_attention_for_any_shape(count: int) -> None:
    settings(max_examples=count, deadline=None)(given(cases())(check_attention))()


CHUNK_TILES = [
    ChunkTile(16, 16, 4, 2),
    ChunkTile(32, 16, 4, 2, looks_ahead=True),
    ChunkTile(16, 32, 4, 2, looks_ahead=True, overlaps=True),
]


@pytest.mark.parametrize("tile", CHUNK_TILES, ids=str)
@pytest.mark.parametrize("block_size", [8, 24, 64])
def test_chunks_in_tiles_of_every_kind(tile: ChunkTile, block_size: int) -> None:
    case = AttentionCase(((9, 70), (2, 65), (3, 3)), 4, 2, 16, block_size)
    arguments = case.build()
    tiles = Tiles(tile, DecodeTile(16, 2, 2))
    drawn = attend_paged(AttentionCall(*arguments.values()), tiles)
    torch.testing.assert_close(
        drawn, TORCH.paged_attention(*arguments.values()), **TOLERANCE[case.dtype]
    )


def test_rows_without_context_read_nothing() -> None:
    check_padded(TRITON.paged_attention)


@pytest.mark.parametrize("programs_per_sm", [0.0, 9.0])
def test_a_row_without_context_is_zeros_split_or_whole(programs_per_sm: float) -> None:
    arguments = AttentionCase(((1, 0), (1, 300)), 2, 1, 16, 16).build()
    tile = DecodeTile(16, 2, 2, segment_len=32, programs_per_sm=programs_per_sm)
    drawn = attend_paged(AttentionCall(*arguments.values()), Tiles(CHUNK_TILES[0], tile))
    assert (drawn[0] == 0).all()
    assert (drawn[1] != 0).any()
    assert not attention_triton._counters(drawn.device).any()


SPLIT_CASES = [
    AttentionCase(((1, 512), (1, 513), (1, 1400), (3, 300), (1, 1)), 3, 1, 16, 16),
    AttentionCase(((1, 512), (1, 1400), (1, 1025)), 3, 1, 16, 16, window=512),
    AttentionCase(((1, 700), (1, 40), (1, 3000)), 2, 1, 16, 32, window=300),
    AttentionCase(((1, 4500),), 2, 1, 16, 32),
]


@pytest.mark.parametrize("case", SPLIT_CASES, ids=str)
def test_attention_of_long_decodes_is_split_and_joined(case: AttentionCase) -> None:
    check_attention(case)


@pytest.mark.parametrize("window", [0, 300])
def test_a_decode_has_the_same_bits_in_any_batch(window: int) -> None:
    rows = ((1, 20), (9, 30), (1, 300), (1, 700))
    arguments = AttentionCase(rows, 3, 1, 16, 16, window=window).build()
    ragged = arguments["ragged"]
    together = TRITON.paged_attention(*arguments.values())
    for row in (0, 2, 3):
        start = int(ragged.query_starts[row])
        alone = replace(
            ragged,
            row_ids=ragged.row_ids[row : row + 1].clone(),
            query_starts=torch.tensor([0, 1], dtype=torch.int32),
            context_lens=ragged.context_lens[row : row + 1].clone(),
            max_query_len=1,
            max_context_len=rows[row][1],
        )
        single = {**arguments, "query": arguments["query"][start : start + 1], "ragged": alone}
        assert torch.equal(TRITON.paged_attention(*single.values())[0], together[start])


@pytest.mark.parametrize("window", [0, 150])
def test_a_decode_has_the_same_bits_however_it_is_split(
    window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = ((1, 32), (1, 20), (1, 300), (1, 97))
    call = AttentionCall(*AttentionCase(rows, 3, 1, 16, 16, window=window).build().values())
    tile = DecodeTile(16, 2, 2, segment_len=32)
    whole = attend_paged(call, Tiles(CHUNK_TILES[0], replace(tile, programs_per_sm=0.0)))
    # Two, four and as many parts a row as it has segments; of the short ones some are empty.
    for programs_per_sm in (1, 2, 100):
        monkeypatch.setattr(attention_triton, "SPLIT_PROGRAMS_PER_SM", programs_per_sm)
        split = attend_paged(call, Tiles(CHUNK_TILES[0], replace(tile, programs_per_sm=9.0)))
        assert torch.equal(whole, split)
        assert not attention_triton._counters(whole.device).any()


def test_attention_reads_a_query_inside_a_wider_tensor() -> None:
    arguments = AttentionCase(MIXED).build()
    query = arguments["query"]
    wide = torch.cat((query, torch.full_like(query, float("nan"))), dim=1)[:, : query.shape[1]]
    drawn = TRITON.paged_attention(*{**arguments, "query": wide}.values())
    assert torch.equal(drawn, TRITON.paged_attention(*arguments.values()))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(5, 48), (1, 1), (3, 1500)], ids=str)
def test_add_rms_norm(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    x = torch.randn(shape[0], shape[1] + 3).to(dtype)[:, : shape[1]]
    inputs = x, torch.randn(shape).to(dtype), torch.randn(shape[1]).to(dtype), 1e-5
    drawn, expected = TRITON.add_rms_norm(*inputs), TORCH.add_rms_norm(*inputs)
    torch.testing.assert_close(drawn, expected, **STEPWISE[dtype])


@pytest.mark.parametrize("num_rows", [1, 3])
@pytest.mark.parametrize("sizes", [(48, 64), (50, 300), (33, 1100)], ids=str)
@pytest.mark.parametrize("has_bias", [False, True])
def test_linear(num_rows: int, sizes: tuple[int, int], has_bias: bool) -> None:
    num_outputs, num_inputs = sizes
    x = torch.randn(num_rows, num_inputs + 4).half()[:, :num_inputs]
    weight = torch.randn(num_outputs, num_inputs).half()
    bias = torch.randn(num_outputs).half() if has_bias else None
    drawn = TRITON.linear(x, weight.t(), bias)
    expected = x.double() @ weight.t().double() + (0 if bias is None else bias.double())
    torch.testing.assert_close(drawn.double(), expected, rtol=2e-3, atol=2e-2)


@pytest.mark.parametrize("begin", [0, 37])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_restrict(dtype: torch.dtype, begin: int) -> None:
    logits, restriction = restriction_case(9000, dtype, begin)
    expected = logits.clone()
    TORCH.restrict(expected, restriction, begin)
    TRITON.restrict(logits, restriction, begin)
    assert torch.equal(logits.nan_to_num(5.0), expected.nan_to_num(5.0))


def test_locate() -> None:
    tables = RowTables(
        torch.randint(0, 99, (4, 20), dtype=torch.int32),
        torch.randint(0, 50, (4, 5), dtype=torch.int32),
        torch.tensor([0, 7, 0, 7, 1, 7, 1, 7], dtype=torch.int32)[::2],
        block_size=4,
    )
    row_ids = torch.randint(0, 4, (300,), dtype=torch.int32)
    positions = torch.randint(0, 20, (300,), dtype=torch.int32)
    drawn = TRITON.locate(row_ids, positions, tables)
    for got, expected in zip(drawn, TORCH.locate(row_ids, positions, tables), strict=True):
        assert got.dtype == expected.dtype
        assert torch.equal(got, expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [1, 40, 1500])
def test_silu_mul(dtype: torch.dtype, width: int) -> None:
    gate_up = (torch.randn(3, 2 * width + 5) * 4).to(dtype)[:, : 2 * width]
    torch.testing.assert_close(TRITON.silu_mul(gate_up), TORCH.silu_mul(gate_up), **STEPWISE[dtype])


def rotary_inputs(dtype: torch.dtype, head_dim: int) -> tuple[Tensor, Tensor, Tensor, RotaryWrite]:
    generator = torch.Generator().manual_seed(3)
    fused = torch.randn(6, 9 + 3 + 3, head_dim, generator=generator).to(dtype)
    cos, sin = torch.rand(2, 20, head_dim // 2, generator=generator).to(dtype)
    caches = torch.zeros(2, 4, 3, 8, head_dim, dtype=dtype)
    positions = torch.tensor([0, 19, 3, 3, 7, 1], dtype=torch.int32)
    slots = torch.tensor([3, -1, 7, 12, 31, 0])
    query, key, value = fused.split((9, 3, 3), dim=1)
    return query, key, value, RotaryWrite(cos, sin, positions, slots, *caches)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("has_norms", [False, True])
@pytest.mark.parametrize("head_dim", [24, 64])
def test_rotary_write(dtype: torch.dtype, has_norms: bool, head_dim: int) -> None:
    results: list[tuple[Any, ...]] = []
    for kernels in (TRITON, TORCH):
        query, key, value, args = rotary_inputs(dtype, head_dim)
        if has_norms:
            args = replace(args, norms=HeadNorms(query[0, 0] + 0, query[0, 1] + 1, 1e-6))
        kernels.rotary_write(query, key, value, args)
        results.append((query, key, value, args.k_cache, args.v_cache))
    tolerance = TOLERANCE[dtype] if has_norms else {"rtol": 0, "atol": 0}
    if dtype == torch.bfloat16:  # cut here, rounded there, and the difference of two products
        tolerance = {"rtol": 5e-2, "atol": 5e-2}
    for drawn, expected in zip(*results, strict=True):
        torch.testing.assert_close(drawn, expected, **tolerance)
