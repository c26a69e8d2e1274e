"""The compiled CPU attention means what the torch reference means."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from tests.worker_svc.kernels.cases import (
    ATTENTION_CASES,
    MIXED,
    AttentionCase,
    check_padded,
    random_cases,
    with_dtype,
)
from worker_svc.kernels import Ragged
from worker_svc.kernels.attention import paged_attention_reference
from worker_svc.kernels.attention_cpu import paged_attention_cpu

TOLERANCE = {
    torch.float64: {"rtol": 1e-12, "atol": 1e-12},
    torch.float32: {"rtol": 1e-5, "atol": 2e-6},
    torch.bfloat16: {"rtol": 1e-2, "atol": 1e-3},
    torch.float16: {"rtol": 2e-3, "atol": 1e-4},
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Torch with one thread, so that Numba uses one too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def check(case: AttentionCase) -> None:
    arguments = case.build()
    expected = paged_attention_reference(**arguments)
    assert expected.isfinite().all()
    torch.testing.assert_close(paged_attention_cpu(**arguments), expected, **TOLERANCE[case.dtype])


@pytest.mark.parametrize("paged_attention", [paged_attention_cpu, paged_attention_reference])
def test_rows_without_context_read_nothing(paged_attention: Callable[..., Tensor]) -> None:
    check_padded(paged_attention)


FLOAT16 = pytest.param(torch.float16, marks=pytest.mark.long)  # seconds to compile


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, FLOAT16], ids=str)
def test_equals_the_reference(dtype: torch.dtype) -> None:
    for case in with_dtype(dtype):
        check(case)


def test_two_threads_share_the_work_to_the_same_bits() -> None:
    arguments = AttentionCase((*MIXED, (40, 150))).build()
    expected = paged_attention_cpu(**arguments)
    torch.set_num_threads(2)
    assert torch.equal(paged_attention_cpu(**arguments), expected)


@settings(max_examples=60, deadline=None)
@given(random_cases())
def test_equals_the_reference_for_any_shape(case: AttentionCase) -> None:
    check(case)


def alone(arguments: dict[str, Any], row: int) -> dict[str, Any]:
    """The last token of one row, as a decode that has the step to itself."""
    ragged = arguments["ragged"]
    last = int(ragged.query_starts[row + 1]) - 1
    single = replace(
        ragged,
        row_ids=ragged.row_ids[row : row + 1].clone(),
        query_starts=torch.tensor([0, 1], dtype=torch.int32),
        context_lens=ragged.context_lens[row : row + 1].clone(),
        max_query_len=1,
    )
    return {**arguments, "query": arguments["query"][last : last + 1], "ragged": single}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("window", [0, 30])
def test_output_has_the_same_bits_in_any_batch_and_chunk(dtype: torch.dtype, window: int) -> None:
    rows = (*MIXED, (70, 150), (1, 150))
    arguments = AttentionCase(rows, num_heads=9, num_kv_heads=3, dtype=dtype, window=window).build()
    together = paged_attention_cpu(**arguments)
    for row in range(len(rows)):
        last = int(arguments["ragged"].query_starts[row + 1]) - 1
        assert torch.equal(paged_attention_cpu(**alone(arguments, row))[0], together[last])


def test_a_query_that_is_a_strided_view_is_read_in_place_or_copied() -> None:
    arguments = AttentionCase(MIXED).build()
    query = arguments["query"]
    wide = torch.cat((query, torch.full_like(query, float("nan"))), dim=1)[:, : query.shape[1]]
    assert not wide.is_contiguous()
    expected = paged_attention_cpu(**arguments)
    assert torch.equal(paged_attention_cpu(**{**arguments, "query": wide}), expected)


def test_extreme_scores_neither_overflow_nor_vanish() -> None:
    arguments = ATTENTION_CASES[0].build()
    arguments["query"] *= 1e4
    torch.testing.assert_close(
        paged_attention_cpu(**arguments), paged_attention_reference(**arguments), rtol=1e-3, atol=0
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, FLOAT16], ids=str)
def test_16_bits_are_widened_exactly(dtype: torch.dtype) -> None:
    """One row for every number there is: with one key each, its value is what comes out."""
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    values = every.view(-1, 1, 1, 1).expand(-1, 1, 1, 2).contiguous()
    count = len(every)
    starts, ones = torch.arange(count + 1, dtype=torch.int32), torch.ones(count, dtype=torch.int32)
    ragged = Ragged(starts[:-1], starts, ones, starts[:-1, None].contiguous(), 1, 1)
    query = torch.ones(count, 1, 2, dtype=dtype)
    mixed = paged_attention_cpu(query, torch.zeros_like(values), values, ragged, 1.0, 0)
    assert torch.equal(mixed.isfinite(), values[:, :, 0].isfinite())
    torch.testing.assert_close(mixed[mixed.isfinite()], values[values.isfinite()], rtol=0, atol=0)


@pytest.mark.parametrize("cache", ["k_cache", "v_cache"])
def test_a_nan_in_the_context_is_seen(cache: str) -> None:
    arguments = AttentionCase(((1, 9), (1, 9))).build()
    ragged: Ragged = arguments["ragged"]
    arguments[cache][ragged.block_tables[ragged.row_ids[0], 0], :, 3] = float("nan")
    output = paged_attention_cpu(**arguments)
    assert output[0].isnan().all()
    assert output[1].isfinite().all()


SCRIPT = """
import numpy
from worker_svc.kernels import attention_cpu
assert attention_cpu._new_tile(numpy.zeros((1, 1, 4)), 2, 3).mixed.shape == (2, 4)
"""


def run_script(environment: dict[str, str]) -> None:
    subprocess.run([sys.executable, "-c", SCRIPT], env={**os.environ, **environment}, check=True)


def test_compiled_code_is_kept_where_numba_cache_dir_says(tmp_path: Path) -> None:
    run_script({"NUMBA_CACHE_DIR": str(tmp_path)})
    assert list(tmp_path.rglob("attention_cpu._new_tile*.nbc"))


def test_it_works_where_no_cache_can_be_written() -> None:
    run_script({"NUMBA_CACHE_DIR": "", "NUMBA_CACHE_LOCATOR_CLASSES": "UserProvidedCacheLocator"})
