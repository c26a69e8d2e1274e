"""Steps that ranks compute side by side: transformers' tokens, and those of one process's draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedConfig

from stepserve.protocol.sampling import Sampling
from tests.checkpoints import VARIANTS, lone_greedy, make_checkpoint
from tests.worker_svc.conftest import Assemble
from tests.worker_svc.drive import (
    GREEDY,
    all_is_free,
    finish_all,
    keep_every_promise,
    lane_for,
    prompt,
)
from tests.worker_svc.ranks import RankedRunner, RankThreads, load_ranks
from worker_svc.runner import Runner

SETTINGS = {
    "device": "cpu",
    "block_size": 4,
    "num_blocks": 64,
    "max_batch_size": 6,
    "max_step_tokens": 64,
}
# Of each family one; in the third every rank has the one key-value head there is.
FAMILIES = ("llama-biases", "qwen2-tied", "mistral", "qwen3-tied")
# Variants that so many ranks divide.
EVERY = [("llama-yarn", 2), ("llama-yarn", 4), ("mistral", 4), ("qwen3-tied", 4), ("llama", 4)]
EVERY += [(family, 2) for family in FAMILIES]


def ranked(checkpoint: Path, num_ranks: int = 2, **settings: Any) -> Any:
    """A runner in so many ranks, which drives like one."""
    kernels = settings.get("kernels", "torch")
    threads = RankThreads(num_ranks)
    models = load_ranks(threads, checkpoint, settings.get("dtype", "float64"), kernels)
    return RankedRunner(threads, models, **SETTINGS | settings)


def checkpoint_of(variant: str, directory: Path) -> Path:
    return make_checkpoint(directory / variant, variant, seed=3)


@pytest.mark.parametrize("variant", FAMILIES)
def test_two_ranks_give_the_tokens_of_transformers(variant: str, tmp_path: Path) -> None:
    checkpoint = checkpoint_of(variant, tmp_path)
    keep_every_promise(ranked(checkpoint), checkpoint, seed=7)


@pytest.mark.long
@pytest.mark.parametrize(("variant", "num_ranks"), EVERY)
@pytest.mark.parametrize("attention", ["paged", "grouped", "padded"])
@pytest.mark.parametrize("kernels", ["torch", "cpu"])
def test_any_number_of_ranks_that_divides_does(
    variant: str, num_ranks: int, attention: str, kernels: str, tmp_path: Path
) -> None:
    checkpoint = checkpoint_of(variant, tmp_path)
    runner = ranked(checkpoint, num_ranks, attention=attention, kernels=kernels)
    keep_every_promise(runner, checkpoint, seed=11)


def test_three_ranks_with_two_heads_each_and_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def config() -> PreTrainedConfig:
        windowed = VARIANTS["qwen3-layer-types"]()
        windowed.intermediate_size = 96
        return windowed

    monkeypatch.setitem(VARIANTS, "three", config)
    checkpoint = checkpoint_of("three", tmp_path)
    keep_every_promise(ranked(checkpoint, 3), checkpoint, seed=7)


def test_a_step_that_is_launched_ahead(small_checkpoint: Path) -> None:
    keep_every_promise(ranked(small_checkpoint), small_checkpoint, seed=8, ahead=2)


SAMPLINGS: Sequence[Sampling] = (
    GREEDY,
    Sampling(max_tokens=12, temperature=1.3, seed=7, logprobs=3),
    Sampling(max_tokens=12, temperature=0.7, top_p=0.8, top_k=40, seed=2**64 - 1),
    Sampling(max_tokens=12, temperature=1.0, min_p=0.05, repetition_penalty=1.2, seed=9),
    Sampling(max_tokens=12, temperature=0.0, frequency_penalty=0.7, logit_bias=((9, 2.5),)),
    Sampling(max_tokens=12, temperature=2.0, presence_penalty=1.5, top_p=0.99, logprobs=0),
)


@pytest.mark.parametrize("kernels", ["torch", "cpu"])
def test_draws_are_those_of_one_process(
    assembled: Assemble, small_checkpoint: Path, kernels: str
) -> None:
    drawn = []
    for runner in (
        assembled(kernels=kernels).runner,
        ranked(small_checkpoint, 2, kernels=kernels),
        ranked(small_checkpoint, 4, kernels=kernels),
    ):
        lane = lane_for()
        for seed, sampling in enumerate(SAMPLINGS):
            lane.admit(prompt(5 + seed, seed), sampling, index=seed)
        finish_all(runner, lane, depth=2, chunk=4)
        all_is_free(runner, lane)
        drawn.append(lane.jobs)
    alone, *others = drawn
    for jobs in others:
        for sequence_id, job in jobs.items():
            expected = alone[sequence_id]
            assert job.tokens == expected.tokens
            for got, want in zip(job.logprobs, expected.logprobs, strict=True):
                assert got.logprob == pytest.approx(want.logprob, abs=1e-6)
                assert [i for i, _ in got.top] == [i for i, _ in want.top]


def test_logprobs_are_those_of_transformers(small_checkpoint: Path) -> None:
    runner, lane = ranked(small_checkpoint, dtype="float32"), lane_for()
    job = lane.jobs[lane.admit(prompt(7), replace(GREEDY, logprobs=3))]
    finish_all(runner, lane)
    lone = lone_greedy(small_checkpoint, prompt(7), 12, stop_token_ids=())
    assert job.tokens == lone.tokens
    assert [step.logprob for step in job.logprobs] == pytest.approx(lone.logprobs, abs=1e-4)


def test_each_rank_has_its_heads_of_the_cache(small_checkpoint: Path) -> None:
    alone = ranked(small_checkpoint, 1).runners[0].executor
    for runner in ranked(small_checkpoint, 2).runners:
        shape = runner.executor.model.cache_shape(4)
        assert shape.num_kv_heads == 1
        assert 2 * shape.bytes_per_block == alone.model.cache_shape(4).bytes_per_block
        assert isinstance(runner, Runner)
