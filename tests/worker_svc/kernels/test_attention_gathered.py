"""Attention that gathers, in groups or padded, means what the torch reference means."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from tests.worker_svc.kernels.cases import MIXED, AttentionCase, random_cases, with_dtype
from worker_svc.kernels import Groups, Ragged, Rectangle
from worker_svc.kernels.attention import paged_attention_reference
from worker_svc.kernels.attention_grouped import grouped_attention
from worker_svc.kernels.attention_padded import padded_attention

# 16 bits: SDPA rounds the weights before they meet the values, the reference does not.
TOLERANCE = {
    torch.float64: {"rtol": 1e-12, "atol": 1e-12},
    torch.float32: {"rtol": 1e-5, "atol": 2e-6},
    torch.bfloat16: {"rtol": 2e-2, "atol": 1e-2},
    torch.float16: {"rtol": 2e-3, "atol": 1e-3},
}
Variant = Callable[[dict[str, Any]], Tensor]


def lengths_of(ragged: Ragged) -> tuple[Any, Any, Any]:
    """Rows' lines, tokens and contexts on the host."""
    query_lens = ragged.query_starts.diff()
    return tuple(t.long().numpy() for t in (ragged.row_ids, query_lens, ragged.context_lens))


def grouped(arguments: dict[str, Any]) -> Tensor:
    """The output for the rows as given, computed in the order that groups want."""
    ragged = arguments["ragged"]
    row_ids, query_lens, context_lens = lengths_of(ragged)
    order = np.lexsort((context_lens, query_lens))
    tokens = torch.cat(
        [torch.arange(ragged.query_starts[row], ragged.query_starts[row + 1]) for row in order]
    )
    groups = Groups(row_ids[order], query_lens[order], context_lens[order], ragged.block_tables)
    rest = {name: arguments[name] for name in ("k_cache", "v_cache", "scale", "window")}
    output = torch.empty_like(arguments["query"])
    output[tokens] = grouped_attention(arguments["query"][tokens], groups=groups, **rest)
    return output


def padded(arguments: dict[str, Any]) -> Tensor:
    """The output for the rows' own tokens; what pads them is NaN, as it may be anything."""
    ragged = arguments["ragged"]
    row_ids, query_lens, context_lens = lengths_of(ragged)
    rectangle = Rectangle(row_ids, context_lens - query_lens, query_lens, ragged.block_tables)
    own = torch.arange(int(query_lens.max())) < torch.from_numpy(query_lens)[:, None]
    query = arguments["query"].new_full((*own.shape, *arguments["query"].shape[1:]), torch.nan)
    query[own] = arguments["query"]
    rest = {name: arguments[name] for name in ("k_cache", "v_cache", "scale", "window")}
    mixed = padded_attention(query.flatten(0, 1), rectangle=rectangle, **rest)
    return mixed[own.flatten()]


VARIANTS = pytest.mark.parametrize("variant", [grouped, padded])


def check(variant: Variant, case: AttentionCase) -> None:
    case = replace(case, rows=tuple(row for row in case.rows if row[0] > 0) or ((1, 1),))
    arguments = case.build()
    expected = paged_attention_reference(**arguments)
    assert expected.isfinite().all()
    torch.testing.assert_close(variant(arguments), expected, **TOLERANCE[case.dtype])


@VARIANTS
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_equals_the_reference(variant: Variant, dtype: torch.dtype) -> None:
    for case in with_dtype(dtype):
        check(variant, case)


@VARIANTS
@settings(max_examples=50, deadline=None)
@given(case=random_cases())
def test_equals_the_reference_for_any_shape(variant: Variant, case: AttentionCase) -> None:
    check(variant, case)


EQUAL = ((1, 9), (5, 5), (1, 9), (5, 12), (5, 5), (1, 9), (1, 40), (5, 12))


@VARIANTS
@pytest.mark.parametrize("window", [0, 4, 6])
@pytest.mark.parametrize("rows", [EQUAL, ((5, 5), (3, 3), (5, 5)), ((1, 7),) * 3], ids=str)
def test_rows_of_equal_lengths(
    variant: Variant, rows: tuple[tuple[int, int], ...], window: int
) -> None:
    check(variant, AttentionCase(rows, num_heads=6, num_kv_heads=2, window=window))


def test_rows_of_equal_lengths_are_one_group() -> None:
    arguments = AttentionCase(EQUAL).build()
    row_ids, query_lens, context_lens = lengths_of(arguments["ragged"])
    order = np.lexsort((context_lens, query_lens))
    groups = Groups(
        row_ids[order], query_lens[order], context_lens[order], arguments["ragged"].block_tables
    )
    reading = groups.reading(0, arguments["k_cache"])
    found = [(group.num_rows, group.query_len) for group in reading.groups]
    assert found == [(3, 1), (1, 1), (2, 5), (2, 5)]
    assert groups.reading(0, arguments["k_cache"]) is reading


@VARIANTS
def test_rows_that_share_blocks_read_the_same(variant: Variant) -> None:
    arguments = AttentionCase(((1, 20), (4, 20), (1, 33)), block_size=8).build()
    ragged = arguments["ragged"]
    tables, lines = ragged.block_tables, ragged.row_ids.long()
    tables[lines[0], :2] = tables[lines[2], :2]
    tables[lines[1], :2] = tables[lines[2], :2]
    expected = paged_attention_reference(**arguments)
    torch.testing.assert_close(variant(arguments), expected, **TOLERANCE[torch.float32])


@VARIANTS
def test_entries_past_a_rows_last_block_are_not_read(variant: Variant) -> None:
    arguments = AttentionCase(MIXED).build()
    ragged = arguments["ragged"]
    block_size = arguments["k_cache"].shape[2]
    for line, length in zip(ragged.row_ids.tolist(), ragged.context_lens.tolist(), strict=True):
        ragged.block_tables[line, -(-length // block_size) :] = -7
    expected = paged_attention_reference(**arguments)
    torch.testing.assert_close(variant(arguments), expected, **TOLERANCE[torch.float32])


@VARIANTS
@pytest.mark.parametrize("cache", ["k_cache", "v_cache"])
def test_a_nan_in_one_rows_context_is_its_own(variant: Variant, cache: str) -> None:
    arguments = AttentionCase(((1, 9), (1, 9), (3, 30))).build()
    ragged: Ragged = arguments["ragged"]
    arguments[cache][ragged.block_tables[ragged.row_ids[0], 0], :, 3] = float("nan")
    output = variant(arguments)
    assert output[0].isnan().all()
    assert output[1:].isfinite().all()
