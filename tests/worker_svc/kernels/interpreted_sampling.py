"""The sampler's Triton kernels against their references, in Triton's interpreter.

Run by ``test_sampling_interpreter.py`` in a process of its own: kernels stay interpreted once they
have been made so. Small tiles stand for the large ones of a GPU, so that a row is many tiles, and
the candidates of a cut are sometimes more than a tile.
"""

from __future__ import annotations

import math
import random
from dataclasses import replace
from functools import partial

import pytest
import torch
import triton
import triton.language as tl
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor
from triton.runtime import interpreter

from stepserve.protocol.sampling import Sampling
from stepserve.protocol.step import Admission
from tests.worker_svc.step.sampling import (
    PADDED,
    TORCH,
    Case,
    Sampled,
    Table,
    draw,
    probabilities,
    random_case,
    random_logits,
    sample,
    tabled,
)
from worker_svc.kernels import Kernels, select
from worker_svc.kernels import record as _record
from worker_svc.kernels.philox import uniforms_reference
from worker_svc.kernels.record import Columns, pack_record
from worker_svc.kernels.sampling import categorical_reference
from worker_svc.kernels.sampling_row_triton import draw_from_row, find_peak
from worker_svc.kernels.sampling_triton import LOG2_E, Tiles, choose_triton, uniform_of
from worker_svc.kernels.scratch import Scratch
from worker_svc.step.sampler import Choice, SampledRows, Sampler, StepNeeds

# The interpreter makes Triton's functions ready again at each call from one to another, which
# takes milliseconds; the launch has made them so, but for those that its own library calls.
interpreter._patch_lang(tl.zeros.fn)
interpreter.InterpretedFunction.__call__ = lambda self, *args, **kwargs: self.rewrite()(
    *args, **kwargs
)

SMALL, WIDE = Tiles(rows=8, cols=4, num_warps=1), Tiles(rows=32, cols=8, num_warps=1)
RECORD_WORDS = tl.constexpr(_record.RECORD_WORDS)
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
VOCAB_SIZE = 140
TRITON = select("triton", "cpu")


def with_tiles(tiles: Tiles = SMALL) -> Kernels:
    return replace(TRITON, choose=partial(choose_triton, tiles=tiles))


def triton_sample(cases: list[Case], logits: Tensor, tiles: Tiles = SMALL) -> Sampled:
    return sample(cases, logits, with_tiles(tiles))


def check_same(cases: list[Case], logits: Tensor, tiles: Tiles) -> int:
    """Every row's token is the reference's, or a tie of rounding decides; how many are excused.

    A tie is told in float64: the row's number lies within a millionth of another token's share, or
    min_p or top_p within a millionth of cutting off a token more or less.
    """
    chosen, expected = triton_sample(cases, logits, tiles), sample(cases, logits)
    assert chosen.is_finite.tolist() == expected.is_finite.tolist() == [True] * len(cases)
    excused = 0
    for at, case in enumerate(cases):
        if int(chosen.token_ids[at]) != int(expected.token_ids[at]):
            assert case.sampling.temperature > 0
            assert draw(case, logits[at].tolist())[1] < 1e-6
            excused += 1
        elif case.sampling.logprobs >= 0:
            got, wanted = chosen.logprobs[at], expected.logprobs[at]
            assert got.logprob == pytest.approx(wanted.logprob, abs=1e-5)
            assert [p for _, p in got.top] == pytest.approx([p for _, p in wanted.top], abs=1e-5)
    return excused


@st.composite
def steps(draw: st.DrawFn) -> tuple[list[Case], Tensor]:
    rng = random.Random(draw(st.integers(0, 2**32)))
    vocab_size = draw(st.sampled_from([50, 131, 160]))
    cases = [random_case(rng, vocab_size) for _ in range(2)]
    dtype, spread = draw(st.sampled_from(DTYPES)), draw(st.sampled_from([0.05, 1.0, 4.0]))
    return cases, random_logits(2, dtype, rng.getrandbits(32), spread, vocab_size)


@settings(max_examples=4, deadline=None)
@given(steps(), st.sampled_from([SMALL, WIDE]))
def test_the_same_token_as_the_reference(step: tuple[list[Case], Tensor], tiles: Tiles) -> None:
    check_same(*step, tiles)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_many_tokens_are_the_same_as_the_reference() -> None:
    excused = 0
    rng = random.Random(5)
    for step in range(200):
        cases = [random_case(rng, VOCAB_SIZE) for _ in range(2)]
        logits = random_logits(2, DTYPES[step % 3], step, 10 ** rng.uniform(-2, 1), VOCAB_SIZE)
        excused += check_same(cases, logits, (SMALL, WIDE)[step % 2])
    print(f"{excused} of 400 tokens differ by a tie of rounding")
    assert excused <= 1


CUTS = {
    "more than there are": {"top_k": VOCAB_SIZE + 5},
    "mass": {"top_p": 0.8},
    "count, then mass": {"top_k": 90, "top_p": 0.7},
    "all three": {"top_k": 50, "top_p": 0.9, "min_p": 0.5, "temperature": 3.0},
}


@pytest.mark.parametrize("name", CUTS)
def test_rows_so_flat_that_candidates_do_not_fit_a_tile(name: str) -> None:
    cases = [Case(Sampling(max_tokens=50, seed=seed, **CUTS[name])) for seed in range(2)]
    logits = random_logits(2, torch.float16, 5, 0.3, VOCAB_SIZE)
    logits[1] = logits[1, 7]
    check_same(cases, logits, SMALL)


@pytest.mark.long
def test_draws_follow_the_exact_probabilities() -> None:
    row = random_logits(1, torch.float32, 21, 1.5, vocab_size=20)
    base = Sampling(max_tokens=50, temperature=1.4, top_k=12, top_p=0.9, min_p=0.02)
    counts = torch.zeros(20, dtype=torch.int64)
    for call in range(3):
        cases = [Case(replace(base, seed=60 * call + at)) for at in range(60)]
        tokens = triton_sample(cases, row.expand(60, -1), Tiles(8, 4, 1)).token_ids
        counts += tokens.bincount(minlength=20)
    expected = torch.tensor(probabilities(cases[0], row[0].tolist())) * 180
    assert not counts[expected == 0].any()
    kept = expected > 0
    assert chisquare(counts[kept], expected[kept]).pvalue > 1e-4


def test_rows_that_are_not_finite_are_told_and_hurt_no_other() -> None:
    rng = random.Random(11)
    cases = [random_case(rng, VOCAB_SIZE) for _ in range(6)]
    # The fourth biases the very token that is not finite.
    cases[3] = Case(Sampling(max_tokens=9, logit_bias=((5, -100.0),), presence_penalty=1.0), (5,))
    logits = random_logits(6, torch.float32, 12, vocab_size=VOCAB_SIZE)
    sound = triton_sample(cases, logits, WIDE)
    logits[[0, 3, 5], 5] = torch.tensor([math.nan, math.inf, -math.inf])
    sampled = triton_sample(cases, logits, WIDE)
    assert sampled.is_finite.tolist() == [False, True, True, False, True, False]
    assert sampled.token_ids[[1, 2, 4]].tolist() == sound.token_ids[[1, 2, 4]].tolist()
    assert 0 <= int(sampled.token_ids.min()) <= int(sampled.token_ids.max()) < VOCAB_SIZE


def test_the_first_of_the_likeliest() -> None:
    logits = random_logits(2, torch.bfloat16, 5, vocab_size=VOCAB_SIZE)
    logits[:, [41, 77, 78, 130]] = logits.max() + 1
    logits[1] = 0.0
    logits[1, 3:] = -0.0
    greedy = [Case(Sampling(max_tokens=50, temperature=0.0))] * 2
    assert triton_sample(greedy, logits).token_ids.tolist() == [41, 0]


EXTREMES = {
    "cold": {"temperature": 1e-5},
    "hot": {"temperature": 100.0, "top_p": 0.5},
    "one": {"top_k": 1, "top_p": 1e-9, "min_p": 1.0},
    "all": {"top_k": 2**32 - 1},
    "everything biased": {"logit_bias": tuple((i, 100.0) for i in range(VOCAB_SIZE))},
    "overflow": {"repetition_penalty": 1e-38, "top_p": 0.9},
    "beyond": {"logit_bias": ((5, 3.4e38), (6, -3.4e38)), "min_p": 0.1},
}


@pytest.mark.parametrize("kind", ["usual", "flat", "huge"])
def test_extreme_values_choose_as_the_reference_does(kind: str) -> None:
    cases = [
        Case(Sampling(max_tokens=50, seed=at, **values), prompt=(5, 6, 7), output=(5, 8))  # type: ignore[arg-type]
        for at, values in enumerate(EXTREMES.values())
    ]
    logits = random_logits(len(cases), torch.float32, 3, vocab_size=VOCAB_SIZE)
    logits = {"usual": logits, "flat": logits * 0, "huge": logits.sign() * 1e36}[kind]
    chosen, expected = triton_sample(cases, logits, WIDE), sample(cases, logits)
    assert chosen.is_finite.all()
    assert chosen.token_ids.tolist() == expected.token_ids.tolist()


def test_counts_are_zero_again_and_padded_rows_are_left_alone() -> None:
    cases = [
        Case(Sampling(max_tokens=50, frequency_penalty=0.5), output=(4, 4, 9)),
        Case(Sampling(max_tokens=50, repetition_penalty=1.5), output=(7, 8)),
    ]
    table, rows, needs = tabled(cases)
    row_ids = torch.tensor([int(rows.row_ids[0]), PADDED, int(rows.row_ids[1])], dtype=torch.int32)
    padded = SampledRows(row_ids, torch.tensor([6, 0, 5], dtype=torch.int32))
    scratch = Scratch(torch.device("cpu"))
    logits = random_logits(3, torch.float32, 5, vocab_size=VOCAB_SIZE)
    for _ in range(2):
        chosen = choose_triton(logits, padded, table, needs, scratch, SMALL).token_ids
        assert not scratch.get("token counts", (64, VOCAB_SIZE), torch.int32).any()
        kept = [0, 2]
        assert chosen[kept].tolist() == sample(cases, logits[kept]).token_ids.tolist()


@pytest.mark.parametrize("kernels", [TORCH, with_tiles()], ids=["torch", "triton"])
def test_advance_writes_tokens_and_sees_ends(kernels: Kernels) -> None:
    stops = tuple(range(100, 164))
    cases = [Case(Sampling(max_tokens=3, stop_token_ids=stops), output=(9,)) for _ in range(6)]
    table = Table(num_rows=7)
    for row_id, case in enumerate(cases):
        table.admit(case, row_id)
    table.has_ended[5] = 1
    before = table.token_ids.clone()
    row_ids = torch.tensor([3, 0, PADDED, 1, 2, 4, 5], dtype=torch.int32)
    positions = torch.tensor([4, 4, 0, 4, 5, 4, 4], dtype=torch.int32)
    chosen = torch.tensor([163, 99, 100, 7, 8, 100, 100], dtype=torch.int32)
    is_finite = torch.tensor([1, 1, 1, 0, 1, 1, 1], dtype=torch.int32)
    rows = SampledRows(row_ids, positions)
    Sampler(table, kernels).advance(Choice(chosen, is_finite), rows)
    before[3, 4], before[0, 4], before[2, 5], before[4, 4] = 163, 99, 8, 100
    assert torch.equal(table.token_ids, before)
    assert table.has_ended.tolist() == [0, 1, 1, 1, 1, 1, 0]


def test_what_is_not_needed_is_not_launched() -> None:
    """More stages than a row needs change nothing."""
    cases = [Case(Sampling(max_tokens=50, temperature=t, seed=3)) for t in (0.0, 0.9)]
    table, rows, needs = tabled(cases)
    logits = random_logits(2, torch.float32, 5, vocab_size=VOCAB_SIZE)
    kernels = with_tiles()
    expected = Sampler(table, kernels).choose(logits, rows, needs).token_ids
    everything = StepNeeds(penalties=True, bias=True, draw=True, cut=True, num_logprobs=3)
    assert torch.equal(Sampler(table, kernels).choose(logits, rows, everything).token_ids, expected)


@triton.jit
def uniform_kernel(records: tl.tensor, positions: tl.tensor, numbers: tl.tensor) -> None:
    row = tl.program_id(0)
    number = uniform_of(records + row * RECORD_WORDS, tl.load(positions + row))
    tl.store(numbers + row, number)


def test_uniforms_have_the_bits_of_the_reference() -> None:
    rng = random.Random(0)
    admissions = [
        Admission(0, "", rng.getrandbits(32), (1,), 1, Sampling(9, seed=rng.getrandbits(64)))
        for _ in range(40)
    ]
    records = torch.stack([torch.from_numpy(pack_record(a, 9)) for a in admissions])
    positions = torch.randint(1, 2**31 - 1, (40,), dtype=torch.int32)
    numbers = torch.zeros(40, dtype=torch.float64)
    uniform_kernel[(40,)](records, positions, numbers)
    columns = Columns(records)
    indexes = columns.index.long() & 0xFFFFFFFF
    assert torch.equal(numbers, uniforms_reference(columns.seed, indexes, positions - 1))


@triton.jit
def draw_kernel(
    logits: tl.tensor, uniforms: tl.tensor, tokens: tl.tensor, VOCAB: tl.constexpr
) -> None:
    row = tl.program_id(0)
    line = logits + row * VOCAB
    top, _, _, _ = find_peak(line, VOCAB, 8, 8)
    uniform, lowest = tl.load(uniforms + row), top - 50.0
    token = draw_from_row(line, top, LOG2_E, lowest, uniform, VOCAB, 8, 8, 16)
    tl.store(tokens + row, token)


@pytest.mark.parametrize("vocab_size", [1, 64, 65, 300])
def test_draws_invert_the_cumulative_distribution(vocab_size: int) -> None:
    generator = torch.Generator().manual_seed(vocab_size)
    logits = torch.randn(12, vocab_size, generator=generator) * 3
    chances = torch.rand(12, vocab_size, generator=generator)
    kept = chances < torch.tensor([0.01, 0.9]).repeat(6)[:, None]
    kept[:, vocab_size // 2] = True
    logits = logits.masked_fill(~kept, -1e4)
    uniforms = torch.rand(12, generator=generator, dtype=torch.float64)
    uniforms[:4] = torch.tensor([0.0, 0.0, 1 - 2**-53, 1 - 2**-53])
    tokens = torch.zeros(12, dtype=torch.int32)
    draw_kernel[(12,)](logits, uniforms, tokens, vocab_size)
    assert torch.equal(tokens.long(), categorical_reference(logits, uniforms))
    assert kept.gather(1, tokens.long()[:, None]).all()
