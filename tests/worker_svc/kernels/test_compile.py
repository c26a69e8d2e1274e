"""Every Triton kernel compiles for sm_80 and sm_90 as launched, and fits: see ``compiling.py``.

Run with ``-s`` to see the table of registers, spilled bytes and shared memory.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

pytest.importorskip("triton")

from dataclasses import replace

from stepserve.protocol.sampling import Sampling
from stepserve.protocol.step import Admission
from tests.worker_svc.kernels.cases import AttentionCase, restriction_case
from tests.worker_svc.kernels.compiling import (
    SHARED_LIMIT_BYTES,
    compile_launch,
    launches,
    specialisation,
)
from tests.worker_svc.step.sampling import Table as SampleTable
from tests.worker_svc.step.tables import row_of
from worker_svc.core.limits import Limits
from worker_svc.core.residents import Resident
from worker_svc.kernels import HeadNorms, RotaryWrite, select
from worker_svc.kernels.activation_triton import silu_mul_triton
from worker_svc.kernels.advance_triton import advance_triton
from worker_svc.kernels.attention_tiles import (
    CARD_TILES,
    CHUNK_CANDIDATES,
    DECODE_CANDIDATES,
    DEFAULT_TILES,
    ChunkTile,
    DecodeTile,
    Tiles,
)
from worker_svc.kernels.attention_triton import (
    AttentionCall,
    attend_paged,
    paged_attention_triton,
)
from worker_svc.kernels.linear_triton import linear_triton
from worker_svc.kernels.locate_triton import locate_triton
from worker_svc.kernels.norm_triton import add_rms_norm_triton
from worker_svc.kernels.restrict_triton import restrict_triton
from worker_svc.kernels.rotary_triton import rotary_write_triton
from worker_svc.kernels.sampling_triton import choose_triton
from worker_svc.kernels.scratch import Scratch
from worker_svc.model.batch import Batch
from worker_svc.step.layout import Flat
from worker_svc.step.rows import RowTable
from worker_svc.step.sampler import SampledRows, StepNeeds

DTYPES = [torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.long), torch.float32]
GROUPED = AttentionCase(((5, 3000),), num_heads=32, num_kv_heads=8, block_size=16)


def check(
    label: str,
    launch_all: Callable[[], object],
    expected: set[str],
    capabilities: tuple[int, ...] = (80, 90),
) -> None:
    """Compile all that is launched; print a line for each; fail on spills and lack of memory."""
    with launches() as collected:
        launch_all()
    usages = [compile_launch(each, capability) for each in collected for capability in capabilities]
    for usage in usages:
        print(
            f"{usage.name:13} {label:16} sm_{usage.capability} registers {usage.registers:3}"
            f" spilled {usage.spilled_bytes:4} shared {usage.shared_bytes:6}"
        )
    assert {usage.name for usage in usages} == expected
    for usage in usages:
        assert usage.spilled_bytes == 0, usage
        assert usage.shared_bytes <= SHARED_LIMIT_BYTES[usage.capability], usage


def check_attention(case: AttentionCase) -> None:
    arguments = case.build()
    label = f"{str(case.dtype).removeprefix('torch.')} {case.head_dim}"
    check(label, lambda: paged_attention_triton(**arguments), {"chunk", "decode"})


@pytest.mark.parametrize(
    ("dtype", "head_dim"),
    [
        (torch.bfloat16, 128),
        pytest.param(torch.bfloat16, 64, marks=pytest.mark.long),
        pytest.param(torch.float16, 64, marks=pytest.mark.long),
        pytest.param(torch.float16, 128, marks=pytest.mark.long),
        pytest.param(torch.float32, 64, marks=pytest.mark.long),
        pytest.param(torch.float32, 128, marks=pytest.mark.long),
        pytest.param(torch.float32, 256, marks=pytest.mark.long),
    ],
    ids=str,
)
def test_attention(dtype: torch.dtype, head_dim: int) -> None:
    check_attention(replace(GROUPED, dtype=dtype, head_dim=head_dim))


@pytest.mark.parametrize(
    "case",
    [
        replace(GROUPED, num_heads=9, num_kv_heads=3, head_dim=128, window=512),
        pytest.param(
            replace(GROUPED, num_heads=6, num_kv_heads=6, head_dim=80, block_size=8),
            marks=pytest.mark.long,
        ),
        pytest.param(
            replace(GROUPED, num_heads=8, num_kv_heads=1, head_dim=256, block_size=32),
            marks=pytest.mark.long,
        ),
    ],
    ids=str,
)
def test_attention_with_windows_odd_groups_and_other_heads(case: AttentionCase) -> None:
    check_attention(replace(case, dtype=torch.bfloat16))


def check_tiles(tiles: Tiles) -> None:
    """For bfloat16 and heads of 128, on sm_90 alone."""
    case = replace(GROUPED, dtype=torch.bfloat16, head_dim=128)
    call = AttentionCall(*case.build().values())
    names = {"chunk", "decode"}
    check(repr(tiles), lambda: attend_paged(call, tiles), names, capabilities=(90,))


def test_tiles_of_measured_cards() -> None:
    for tables in CARD_TILES.values():
        for (element_size, head_dim), tiles in tables.items():
            assert (element_size, head_dim) == (2, 128)
            check_tiles(tiles)


@pytest.mark.long
@pytest.mark.parametrize("tile", [*CHUNK_CANDIDATES, *DECODE_CANDIDATES], ids=str)
def test_no_candidate_spills(tile: ChunkTile | DecodeTile) -> None:
    kind = "chunk" if isinstance(tile, ChunkTile) else "decode"
    check_tiles(replace(DEFAULT_TILES[2, 128], **{kind: tile}))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_norms_and_activation(dtype: torch.dtype) -> None:
    for hidden in (576, 16384):
        x, weight = torch.zeros(5, hidden, dtype=dtype), torch.zeros(hidden, dtype=dtype)

        def launch_all(x: torch.Tensor = x, weight: torch.Tensor = weight) -> None:
            add_rms_norm_triton(x, x, weight, 1e-5)
            silu_mul_triton(x)

        label = f"{str(dtype).removeprefix('torch.')} {hidden}"
        check(label, launch_all, {"add_rms_norm", "silu_mul"})


@pytest.mark.parametrize(
    ("dtype", "head_dim"),
    [
        (torch.bfloat16, 128),
        (torch.float32, 64),
        pytest.param(torch.bfloat16, 64, marks=pytest.mark.long),
        pytest.param(torch.float16, 64, marks=pytest.mark.long),
        pytest.param(torch.float16, 128, marks=pytest.mark.long),
        pytest.param(torch.float32, 128, marks=pytest.mark.long),
    ],
    ids=str,
)
def test_rotary(dtype: torch.dtype, head_dim: int) -> None:
    query = torch.zeros(5, 64, head_dim, dtype=dtype)
    key = query[:, :8]
    table = torch.zeros(20, head_dim // 2, dtype=dtype)
    cache = torch.zeros(4, 8, 16, head_dim, dtype=dtype)
    positions, slots = torch.zeros(5, dtype=torch.int32), torch.zeros(5, dtype=torch.int32)
    args = RotaryWrite(table, table, positions, slots, cache, cache)
    norms = HeadNorms(*torch.zeros(2, head_dim, dtype=dtype), 1e-6)

    def launch_all() -> None:
        rotary_write_triton(query, key, key, args)
        rotary_write_triton(query, key, key, replace(args, norms=norms))

    check(f"{str(dtype).removeprefix('torch.')} {head_dim}", launch_all, {"rotary_write"})


NEEDS = {
    "greedy": StepNeeds(),
    "drawn": StepNeeds(draw=True),
    "cut": StepNeeds(draw=True, cut=True),
    "told": StepNeeds(num_logprobs=5),
    "adjusted": StepNeeds(penalties=True),
    "everything": StepNeeds(True, True, True, True, 5),
}


def sample_step(logits: torch.Tensor, needs: StepNeeds) -> None:
    """Launch what chooses a token for each row, and what writes it down."""
    table, numbers = SampleTable(num_rows=20), torch.zeros(len(logits), dtype=torch.int32)
    rows = SampledRows(numbers, numbers)
    choice = choose_triton(logits, rows, table, needs, Scratch(torch.device("cpu")))
    advance_triton(choice, rows, table)


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        (torch.bfloat16, "greedy"),
        (torch.bfloat16, "drawn"),
        (torch.float32, "everything"),
        pytest.param(torch.bfloat16, "cut", marks=pytest.mark.long),
        pytest.param(torch.float32, "drawn", marks=pytest.mark.long),
        pytest.param(torch.bfloat16, "adjusted", marks=pytest.mark.long),
        pytest.param(torch.bfloat16, "told", marks=pytest.mark.long),
        pytest.param(torch.bfloat16, "everything", marks=pytest.mark.long),
        pytest.param(torch.float32, "greedy", marks=pytest.mark.long),
        pytest.param(torch.float32, "cut", marks=pytest.mark.long),
        pytest.param(torch.float16, "cut", marks=pytest.mark.long),
    ],
    ids=str,
)
def test_sampling(dtype: torch.dtype, name: str) -> None:
    logits = torch.zeros(5, 151936, dtype=dtype)
    label = f"{str(dtype).removeprefix('torch.')} {name}"
    adjusts = {"adjust"} if NEEDS[name].penalties else set()
    check(label, lambda: sample_step(logits, NEEDS[name]), {"choose", "advance"} | adjusts)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_restrict(dtype: torch.dtype) -> None:
    check(str(dtype), lambda: restrict_triton(*restriction_case(151936, dtype)), {"restrict"})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_products_of_one_row(dtype: torch.dtype) -> None:
    bias = torch.zeros(151936, dtype=dtype)

    def launch_all() -> None:
        for num_inputs, num_outputs in ((1024, 4096), (12288, 4096), (4096, 151936)):
            x = torch.zeros(1, num_inputs, dtype=dtype)
            weight = torch.empty(num_outputs, num_inputs, dtype=dtype)
            linear_triton(x, weight.t(), bias[:num_outputs])

    check(str(dtype).removeprefix("torch."), launch_all, {"one_row"})


def test_kernels_that_start_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a Hopper GPU launches them, whether or not there is one."""
    modules = ("activation", "attention", "linear", "norm", "rotary")
    for module in modules:
        monkeypatch.setattr(f"worker_svc.kernels.{module}_triton.starts_early", lambda _: True)
    case = replace(GROUPED, rows=((1, 3000),), head_dim=128, dtype=torch.bfloat16)
    x, table = torch.zeros(1, 1024, dtype=torch.bfloat16), torch.zeros(20, 32, dtype=torch.bfloat16)
    heads, index = x.view(1, 16, 64), torch.zeros(1, dtype=torch.int32)
    cache = torch.zeros(4, 16, 16, 64, dtype=torch.bfloat16)
    with launches() as collected:
        paged_attention_triton(**case.build())
        add_rms_norm_triton(x, x, x[0], 1e-5)
        silu_mul_triton(x)
        linear_triton(x, torch.empty(512, 1024, dtype=torch.bfloat16).t(), None)
        rotary_write_triton(
            heads, heads, heads, RotaryWrite(table, table, index, index, cache, cache)
        )
    assert len(collected) == 5
    for launch in collected:
        assert launch.options["launch_pdl"]
        assert compile_launch(launch, 90).spilled_bytes == 0


LIMITS = Limits(100, 4000, 16, 300, 40, 4000)


def batch_of(rows: list[tuple[int, int]]) -> Batch:
    """A worker's batch of new sequences: (tokens to compute, tokens in all) each."""
    kernels = replace(select("torch", "cpu"), locate=locate_triton)
    table = RowTable(LIMITS, torch.device("cpu"), kernels)
    laid = []
    for row_id, (num_tokens, context_len) in enumerate(rows):
        computed = context_len - num_tokens
        admission = Admission(row_id, "", 0, (1,) * context_len, 1, Sampling(9), computed)
        resident = Resident.of(admission, LIMITS.max_context)
        resident.row_id = row_id
        laid.append(row_of(resident, num_tokens))
    return Flat().make_batch(laid, table, 0)[0]


def launch_step(batch: Batch) -> None:
    num_tokens, num_sampled = len(batch.token_ids), len(batch.sample_positions)
    projected = torch.zeros(num_tokens, 12, 64, dtype=torch.bfloat16)
    query, key, value = projected.split((8, 2, 2), dim=1)
    table = torch.zeros(LIMITS.max_context, 32, dtype=torch.bfloat16)
    cache = torch.zeros(4, 2, 16, 64, dtype=torch.bfloat16)
    args = RotaryWrite(table, table, batch.positions, batch.slots, cache, cache)
    rotary_write_triton(query, key, value, args)
    paged_attention_triton(query, cache, cache, batch.context, 0.1, 0)
    linear_triton(query.reshape(num_tokens, 512), torch.zeros(96, 512, dtype=query.dtype).t(), None)
    sample_step(torch.zeros(num_sampled, 1024), NEEDS["everything"])


def test_no_step_is_compiled_anew() -> None:
    """Whatever the number of rows, tokens and segments, a kernel's launches are of one kind."""
    kinds: dict[str, set[str]] = {}
    for num_rows in (1, 2, 3, 4, 5, 16, 17):
        for rows in ([(1, 9)], [(3, 700)], [(1, 3900)], [(1, 300)], [(16, 16)]):
            with launches() as collected:
                launch_step(batch_of(rows * num_rows))
            for launch in collected:
                name = launch.kernel.__name__
                kinds.setdefault(name, set()).add(str(specialisation(launch)[1:]))
    assert len(kinds) == 8
    assert {name: len(found) for name, found in kinds.items()} == dict.fromkeys(kinds, 1)
