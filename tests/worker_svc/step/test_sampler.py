"""The batched sampler against one row at a time in plain Python, and exact probabilities."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from stepserve.protocol.sampling import Sampling
from tests.worker_svc.step.sampling import (
    LIMITS,
    PADDED,
    TORCH,
    VOCAB_SIZE,
    Case,
    adjusted,
    draw,
    probabilities,
    random_cases,
    random_logits,
    sample,
    softmax,
    tabled,
)
from worker_svc.kernels import select, truncate
from worker_svc.kernels.truncate import Bounds, likeliest
from worker_svc.step.sampler import SampledRows, Sampler

KERNELS = {"torch": TORCH, "cpu": select("cpu", "cpu")}
GREEDY = Sampling(max_tokens=50, temperature=0.0)
DTYPES = [torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("spread", [0.3, 3.0])
@pytest.mark.parametrize("kernels", KERNELS)
def test_every_kind_of_row_chooses_as_the_reference_does(
    dtype: torch.dtype, spread: float, kernels: str
) -> None:
    cases, logits = random_cases(60, seed=1), random_logits(60, dtype, 2, spread)
    chosen = sample(cases, logits, KERNELS[kernels]).token_ids.tolist()
    excused = 0
    for case, token_id, row in zip(cases, chosen, logits.tolist(), strict=True):
        if case.sampling.temperature == 0:
            scores = adjusted(case, row)
            assert scores[token_id] == pytest.approx(max(scores), abs=1e-5)
            continue
        expected, distance = draw(case, row)
        assert token_id == expected or distance < 1e-6
        excused += token_id != expected
    assert excused <= (1 if dtype is torch.float32 else 0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_does_not_depend_on_the_others(dtype: torch.dtype) -> None:
    cases, logits = random_cases(40, seed=3), random_logits(40, dtype, 4)
    together = sample(cases, logits)
    for at, case in enumerate(cases):
        alone = sample([case], logits[at : at + 1])
        assert int(alone.token_ids[0]) == int(together.token_ids[at])
        assert alone.logprobs.get(0) == together.logprobs.get(at)
    order = list(range(40))
    random.Random(6).shuffle(order)
    shuffled = sample([cases[at] for at in order], logits[order])
    assert shuffled.token_ids.tolist() == [int(together.token_ids[at]) for at in order]


@pytest.mark.parametrize("dtype", DTYPES)
def test_logprobs_are_natural_and_come_after_penalties_and_bias(dtype: torch.dtype) -> None:
    cases = [replace(c, sampling=replace(c.sampling, logprobs=4)) for c in random_cases(20, 7)]
    logits = random_logits(20, dtype, 8)
    sampled = sample(cases, logits)
    for at, (case, row) in enumerate(zip(cases, logits.tolist(), strict=True)):
        expected = [math.log(p) for p in softmax(adjusted(case, row))]
        got = sampled.logprobs[at]
        assert got.logprob == pytest.approx(expected[int(sampled.token_ids[at])], abs=1e-4)
        assert [p for _, p in got.top] == pytest.approx(sorted(expected)[:-5:-1], abs=1e-4)
        for token_id, logprob in got.top:
            assert logprob == pytest.approx(expected[token_id], abs=1e-4)


def test_as_many_logprobs_as_each_row_asked_for() -> None:
    cases = [Case(replace(GREEDY, logprobs=count)) for count in (-1, 0, 1, 20)]
    sampled = sample(cases, random_logits(4, torch.float32, 1))
    assert {at: len(logprobs.top) for at, logprobs in sampled.logprobs.items()} == {
        1: 0,
        2: 1,
        3: 20,
    }


@pytest.mark.parametrize("temperature", [0.0, 1e-6])
def test_plain_greedy_takes_the_first_of_the_likeliest(temperature: float) -> None:
    logits = random_logits(3, torch.bfloat16, 5)
    logits[:, [77, 400]] = logits.max() + 1
    sampled = sample([Case(replace(GREEDY, temperature=temperature))] * 3, logits)
    assert sampled.token_ids.tolist() == [77] * 3


ONLY_SEVEN = ((7, 100.0),)
NARROW = {"top_k": {"top_k": 1}, "top_p": {"top_p": 1e-6}, "min_p": {"min_p": 1.0}}


@pytest.mark.parametrize("name", NARROW)
def test_the_narrowest_choice_is_the_likeliest_token(name: str) -> None:
    logits = random_logits(30, torch.float32, 9)
    cases = [
        Case(Sampling(max_tokens=50, temperature=5.0, seed=seed, **NARROW[name]))
        for seed in range(30)
    ]
    assert sample(cases, logits).token_ids.tolist() == logits.argmax(-1).tolist()


def test_a_bias_forces_and_forbids() -> None:
    logits = random_logits(2, torch.float32, 9)
    best = int(logits[1].argmax())
    cases = [
        Case(replace(GREEDY, logit_bias=ONLY_SEVEN)),
        Case(replace(GREEDY, logit_bias=((best, -100.0),))),
    ]
    forced, other = sample(cases, logits).token_ids.tolist()
    assert forced == 7
    assert other == int(logits[1].topk(2).indices[1])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [*DTYPES, torch.bfloat16])
def test_rows_that_are_not_finite_are_told_and_hurt_no_other(
    bad: float, dtype: torch.dtype
) -> None:
    cases = random_cases(12, seed=11)
    logits = random_logits(12, dtype, 12)
    sound = sample(cases, logits)
    assert bool(sound.is_finite.all())
    ill = logits.clone()
    ill[::3, 5] = bad
    sampled = sample(cases, ill)
    assert sampled.is_finite.tolist() == [at % 3 != 0 for at in range(12)]
    for at in [at for at in range(12) if at % 3]:
        assert int(sampled.token_ids[at]) == int(sound.token_ids[at])
    assert int(sampled.token_ids.min()) >= 0
    assert int(sampled.token_ids.max()) < VOCAB_SIZE


DISTRIBUTIONS = {
    "temperature": {"temperature": 1.7},
    "top_k": {"top_k": 9},
    "top_p": {"top_p": 0.7},
    "min_p": {"min_p": 0.08, "temperature": 1.4},
    "all": {"temperature": 1.2, "top_k": 20, "top_p": 0.9, "min_p": 0.01},
    "penalties": {"presence_penalty": 1.0, "repetition_penalty": 1.4},
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_draws_follow_the_exact_probabilities(name: str, dtype: torch.dtype) -> None:
    row = random_logits(1, dtype, 21)
    base = Sampling(max_tokens=50, **DISTRIBUTIONS[name])  # type: ignore[arg-type]
    counts = [0] * VOCAB_SIZE
    for call in range(60):
        cases = [
            Case(replace(base, seed=1000 * call + at // 4), output=(4, 5), index=at % 4)
            for at in range(64)
        ]
        for token_id in sample(cases, row.expand(64, -1)).token_ids.tolist():
            counts[token_id] += 1
    expected = [60 * 64 * p for p in probabilities(Case(base, output=(4, 5)), row[0].tolist())]
    assert all(p > 0 for p, n in zip(expected, counts, strict=True) if n)
    # Cells that are too thin for the statistic are counted as one.
    thick = [at for at in range(VOCAB_SIZE) if expected[at] >= 5]
    seen, wanted = [counts[at] for at in thick], [expected[at] for at in thick]
    if sum(expected) - sum(wanted) > 1:
        seen.append(sum(counts) - sum(seen))
        wanted.append(sum(expected) - sum(wanted))
    scale = sum(seen) / sum(wanted)
    assert chisquare(seen, [w * scale for w in wanted]).pvalue > 1e-4


def test_the_offset_and_the_index_change_the_draw() -> None:
    logits = random_logits(1, torch.float32, 30, spread=0.1).expand(40, -1)
    hot = Sampling(max_tokens=50, temperature=1.0, seed=5)
    by_offset = [Case(hot, output=(1,) * length) for length in range(40)]
    by_index = [Case(hot, index=index) for index in range(40)]
    assert len(set(sample(by_offset, logits).token_ids.tolist())) > 30
    assert len(set(sample(by_index, logits).token_ids.tolist())) > 30


def kept(scores: Tensor, bounds: Bounds, width: int) -> tuple[list[set[int]], list[bool]]:
    """The tokens that may be drawn, of the ``width`` likeliest, and whether that is all of them."""
    found = likeliest(scores, bounds, width)
    rows = zip(found.token_ids.tolist(), found.scores.tolist(), strict=True)
    tokens = [{i for i, s in zip(*row, strict=True) if s > -math.inf} for row in rows]
    return tokens, found.is_sure.tolist()


def test_ties_with_the_last_token_kept_are_kept() -> None:
    scores = torch.zeros((3, 8))
    scores[:, 2] = 1.0
    top_k, top_p = torch.tensor([3, 0, 0]), torch.tensor([1.0, 0.5, 0.1])
    bounds = Bounds(torch.zeros(3), top_k, top_p)
    assert kept(scores, bounds, 8) == ([set(range(8)), set(range(8)), {2}], [True] * 3)
    # Of the first two rows equals were left out of sight.
    assert kept(scores, bounds, 5)[1] == [False, False, True]


@pytest.mark.parametrize("spread", [0.0001, 1.0, 5.0])
@pytest.mark.parametrize("width", [1, 20, 300, VOCAB_SIZE])
def test_however_far_it_looks_it_is_sure_only_of_what_is_right(spread: float, width: int) -> None:
    scores = random_logits(24, torch.float64, 31, spread)
    top_p = torch.tensor([0.2, 0.5, 0.9, 0.99, 0.9999, 1.0]).repeat(4)
    top_k = torch.tensor([0, 0, 350, 0, 19, 301]).repeat(4)
    min_p = torch.tensor([0.0, 0.01, 0.3, 0.9]).repeat_interleave(6)
    tokens, is_sure = kept(scores, Bounds(min_p, top_k, top_p), width)
    for at in range(24):
        sampling = Sampling(
            50, top_k=int(top_k[at]), top_p=float(top_p[at]), min_p=float(min_p[at])
        )
        chances = probabilities(Case(sampling, prompt=(1,)), scores[at].tolist())
        expected = {token_id for token_id, chance in enumerate(chances) if chance > 0}
        assert not is_sure[at] or tokens[at] == expected
    assert width < VOCAB_SIZE or all(is_sure)
    assert width == 1 or spread < 1 or sum(is_sure) >= 6


def test_a_draw_is_the_same_however_far_it_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    cases, logits = random_cases(60, seed=13), random_logits(60, torch.float64, 14, 1.0)
    draws = []
    for widths in ((), (1,), (20, 300), (599,)):
        monkeypatch.setattr(truncate, "WIDTHS", widths)
        draws.append(sample(cases, logits).token_ids.tolist())
    assert all(draw == draws[0] for draw in draws)


def test_padded_rows_change_nothing() -> None:
    cases, logits = random_cases(20, seed=17), random_logits(20, torch.float32, 18)
    table, rows, needs = tabled(cases)
    expected = Sampler(table, TORCH).choose(logits, rows, needs)
    padded = SampledRows(rows.row_ids.clone(), rows.positions.clone())
    padded.row_ids[::4], padded.positions[::4] = PADDED, 0
    chosen = Sampler(table, TORCH).choose(logits, padded, needs)
    kept = torch.arange(20) % 4 != 0
    assert torch.equal(chosen.token_ids[kept], expected.token_ids[kept])
    assert bool(((chosen.token_ids >= 0) & (chosen.token_ids < VOCAB_SIZE)).all())


def test_a_step_without_rows() -> None:
    table, rows, _ = tabled([])
    needs = tabled(random_cases(20, seed=17))[2]
    assert len(Sampler(table, TORCH).choose(torch.empty(0, 9), rows, needs).token_ids) == 0
    assert len(table.token_ids) == LIMITS.max_batch_size
