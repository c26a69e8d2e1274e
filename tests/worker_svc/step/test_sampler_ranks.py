"""A vocabulary that several ranks share: the token that one process chooses, on every rank."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from stepserve.protocol.sampling import Sampling
from tests.worker_svc.kernels.cases import restriction_case
from tests.worker_svc.ranks import on_ranks
from tests.worker_svc.step.sampling import (
    VOCAB_SIZE,
    Case,
    Sampled,
    random_cases,
    random_logits,
    sample,
)
from worker_svc.kernels import Kernels, select
from worker_svc.kernels.ranks import Ranks

KERNELS = [select("torch", "cpu"), select("cpu", "cpu")]
PLAIN = Sampling(max_tokens=50, temperature=0.0)


def sample_on_ranks(
    num_ranks: int, cases: list[Case], logits: Tensor, kernels: Kernels
) -> list[Sampled]:
    """What each rank says, of which each has its own part of the logits alone."""

    def choose(ranks: Ranks) -> Sampled:
        vocab_size = logits.shape[1]
        begin, end = (vocab_size * (ranks.rank + more) // ranks.size for more in (0, 1))
        share = kernels.of_rank(ranks, range(begin, end), vocab_size)
        return sample(cases, logits[:, begin:end].contiguous(), share)

    return on_ranks(num_ranks, choose)


def check(num_ranks: int, cases: list[Case], logits: Tensor, kernels: Kernels) -> None:
    """Every rank chooses what one process does, token for token."""
    alone = sample(cases, logits, kernels)
    sound = alone.is_finite
    for sampled in sample_on_ranks(num_ranks, cases, logits, kernels):
        assert torch.equal(sampled.is_finite, sound)
        assert torch.equal(sampled.token_ids[sound], alone.token_ids[sound])
        assert bool(((sampled.token_ids >= 0) & (sampled.token_ids < logits.shape[1])).all())
        assert sampled.logprobs.keys() == alone.logprobs.keys()
        for at, expected in alone.logprobs.items():
            if not sound[at]:
                continue
            told = sampled.logprobs[at]
            assert told.logprob == pytest.approx(expected.logprob, abs=1e-5)
            assert [p for _, p in told.top] == pytest.approx([p for _, p in expected.top], abs=1e-5)
            if logits.dtype is torch.float64:  # there are no equals, which come in any order
                assert [token_id for token_id, _ in told.top] == [t for t, _ in expected.top]


@pytest.mark.parametrize("kernels", KERNELS, ids=lambda kernels: kernels.name)
@pytest.mark.parametrize("num_ranks", [2, 3, 7])
def test_rows_of_every_kind_choose_as_in_one_process(num_ranks: int, kernels: Kernels) -> None:
    for seed, spread in enumerate((0.3, 3.0)):
        logits = random_logits(60, torch.float64, seed, spread)
        check(num_ranks, random_cases(60, seed), logits, kernels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_in_less_exact_numbers_too(dtype: torch.dtype) -> None:
    check(2, random_cases(60, 5), random_logits(60, dtype, 6), KERNELS[0])


def test_a_cut_that_the_likeliest_of_each_rank_do_not_decide() -> None:
    """So flat that the nucleus is most of the vocabulary; and all likely tokens on one rank."""
    nucleus = Sampling(max_tokens=50, top_p=0.95, logprobs=2)
    cases = [Case(replace(nucleus, seed=seed)) for seed in range(20)]
    flat = random_logits(20, torch.float64, 3, spread=0.01)
    one_sided = flat.clone()
    one_sided[:, : VOCAB_SIZE // 2] += 9
    check(2, cases, flat, KERNELS[0])
    check(3, cases, one_sided, KERNELS[0])


def test_of_equals_on_two_ranks_the_first_is_taken() -> None:
    logits = random_logits(3, torch.float32, 5)
    logits[:, [77, 400]] = logits.max() + 1
    penalised = replace(PLAIN, frequency_penalty=0.5)
    for sampled in sample_on_ranks(
        2, [Case(PLAIN), Case(penalised), Case(PLAIN)], logits, KERNELS[0]
    ):
        assert sampled.token_ids.tolist() == [77] * 3


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at", [5, VOCAB_SIZE - 5])
def test_a_row_that_is_not_finite_on_one_rank_is_so_on_all(bad: float, at: int) -> None:
    logits = random_logits(12, torch.float64, 12)
    logits[::3, at] = bad
    check(2, random_cases(12, seed=11), logits, KERNELS[0])


def test_a_draw_takes_every_token_as_often_as_it_should_be() -> None:
    """The uniform number that one rank passes on to the next leaves no gap at their border."""
    logits = torch.zeros((60, 5), dtype=torch.float64)
    cases = [Case(Sampling(max_tokens=50, seed=seed)) for seed in range(60)]
    check(2, cases, logits, KERNELS[0])
    check(5, cases, logits, KERNELS[1])


def test_no_logits_are_gathered_where_the_likeliest_token_is_taken() -> None:
    logits = random_logits(8, torch.float32, 1)
    gathered: list[int] = []

    def choose(ranks: Ranks) -> Sampled:
        counting = _Counting(ranks, gathered)
        half = VOCAB_SIZE // 2
        share = KERNELS[0].of_rank(
            counting, range(half * ranks.rank, half * (ranks.rank + 1)), VOCAB_SIZE
        )
        return sample(
            cases, logits[:, half * ranks.rank : half * (ranks.rank + 1)].contiguous(), share
        )

    cases = [Case(PLAIN)] * 8
    on_ranks(2, choose)
    assert gathered == [24, 24]
    gathered.clear()
    cases = [Case(Sampling(max_tokens=50, seed=seed)) for seed in range(8)]
    on_ranks(2, choose)
    assert sum(gathered) < 2 * 8 * 6


class _Counting:
    """Ranks, and how many numbers each call brought to each of them."""

    def __init__(self, ranks: Ranks, gathered: list[int]) -> None:
        self._ranks, self._gathered = ranks, gathered
        self.rank, self.size = ranks.rank, ranks.size
        self.all_reduce = ranks.all_reduce

    def all_gather(self, x: Tensor) -> Tensor:
        self._gathered.append(x.numel())
        return self._ranks.all_gather(x)


def test_a_rank_restricts_its_own_tokens() -> None:
    """Both halves of a vocabulary, each by the same masks, are the whole one restricted."""
    logits, restriction = restriction_case(100, torch.float64)

    def restrict(ranks: Ranks) -> Tensor:
        tokens = range(37 * ranks.rank, 37 + 63 * ranks.rank)
        half = logits[:, tokens.start : tokens.stop].clone()
        select("torch", "cpu").of_rank(ranks, tokens, 100).restrict(half, restriction)
        return half

    halves = on_ranks(2, restrict)
    whole = logits.clone()
    select("torch", "cpu").restrict(whole, restriction)
    assert torch.equal(torch.cat(halves, 1).nan_to_num(5.0), whole.nan_to_num(5.0))
