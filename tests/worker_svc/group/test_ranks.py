"""Ranks that compute side by side: transformers' tokens, and the draws of one process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedConfig

from stepserve.protocol.sampling import Sampling
from tests.checkpoints import VARIANTS, lone_greedy, make_checkpoint
from tests.worker_svc.drive import (
    GREEDY,
    all_is_free,
    finish_all,
    keep_every_promise,
    lane_for,
    prompt,
)
from tests.worker_svc.group.threads import group, small_settings
from tests.worker_svc.lane import Job
from worker_svc.assembly import assemble
from worker_svc.runner import Runner

# Of each family one that two ranks divide; in the third they have the same key-value head.
FAMILIES = ("llama-biases", "qwen2-tied", "mistral", "qwen3-tied")
# Four ranks; in all but one of them several have the same key-value heads.
FOURS = ("llama", "llama-yarn", "mistral", "qwen3-tied")
WAYS = {
    "paged": {"kernels": "cpu"},
    "grouped": {"attention": "grouped"},
    "padded": {"attention": "padded"},
    "padded-static": {"attention": "padded", "batching": "static"},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


def checkpoint_of(root: Path, variant: str) -> Path:
    if not (root / variant).exists():
        make_checkpoint(root / variant, variant, seed=5)
    return root / variant


def check(checkpoint: Path, seed: int, ahead: int = 0, **settings: Any) -> None:
    """A random schedule keeps every promise."""
    with group(small_settings(checkpoint, **settings)) as (_, leader):
        keep_every_promise(leader, checkpoint, seed=seed, ahead=ahead)
        leader.reset()


def test_two_ranks_give_the_tokens_of_transformers(root: Path) -> None:
    check(checkpoint_of(root, "llama-biases"), seed=7, tensor_parallel=2, kernels="cpu")


def test_two_stages_of_two_ranks_do(root: Path) -> None:
    parts = {"pipeline_stages": 2, "tensor_parallel": 2}
    check(checkpoint_of(root, "qwen3-tied"), seed=8, ahead=2, **parts)


def test_three_ranks_with_windows_do(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def config() -> PreTrainedConfig:
        windowed = VARIANTS["qwen3-layer-types"]()
        windowed.intermediate_size = 96
        return windowed

    monkeypatch.setitem(VARIANTS, "three", config)
    check(checkpoint_of(root, "three"), seed=7, tensor_parallel=3)


@pytest.mark.long
@pytest.mark.parametrize("num_stages", [1, 2])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("variant", "num_ranks"), [*((v, 2) for v in FAMILIES), *((v, 4) for v in FOURS)]
)
def test_the_whole_product(
    root: Path, variant: str, num_ranks: int, way: str, num_stages: int
) -> None:
    parts = {"pipeline_stages": num_stages, "tensor_parallel": num_ranks}
    check(checkpoint_of(root, variant), seed=31, ahead=num_stages, **parts, **WAYS[way])


SAMPLINGS: Sequence[Sampling] = (
    GREEDY,
    Sampling(max_tokens=12, temperature=1.3, seed=7, logprobs=3, prompt_logprobs=2),
    Sampling(max_tokens=12, temperature=0.7, top_p=0.8, top_k=40, seed=2**64 - 1),
    Sampling(max_tokens=12, temperature=1.0, min_p=0.05, repetition_penalty=1.2, seed=9),
    Sampling(max_tokens=12, temperature=0.0, frequency_penalty=0.7, logit_bias=((9, 2.5),)),
    Sampling(max_tokens=12, temperature=2.0, presence_penalty=1.5, top_p=0.99, logprobs=0),
)


def drawn(runner: Runner) -> dict[int, Job]:
    """What each kind of sampling gives."""
    lane = lane_for()
    for seed, sampling in enumerate(SAMPLINGS):
        lane.admit(prompt(5 + seed, seed), sampling, index=seed)
    finish_all(runner, lane, depth=2, chunk=4)
    all_is_free(runner, lane)
    return lane.jobs


@pytest.mark.parametrize(
    ("num_stages", "num_ranks", "kernels"),
    [
        (1, 2, "cpu"),
        pytest.param(1, 4, "torch", marks=pytest.mark.long),
        pytest.param(2, 2, "torch", marks=pytest.mark.long),
    ],
)
def test_draws_are_those_of_one_process(
    small_checkpoint: Path, num_stages: int, num_ranks: int, kernels: str
) -> None:
    settings = small_settings(small_checkpoint, kernels=kernels)
    alone = drawn(assemble(settings, "me").runner)
    parts = {"pipeline_stages": num_stages, "tensor_parallel": num_ranks}
    with group(small_settings(small_checkpoint, kernels=kernels, **parts)) as (_, leader):
        together = drawn(leader)
    for sequence_id, job in together.items():
        expected = alone[sequence_id]
        assert job.tokens == expected.tokens
        for got, want in zip(job.logprobs, expected.logprobs, strict=True):
            assert got.logprob == pytest.approx(want.logprob, abs=1e-6)
            assert [i for i, _ in got.top] == [i for i, _ in want.top]
            for ours, theirs in zip(got.prompt or (), want.prompt or (), strict=True):
                assert ours.logprob == pytest.approx(theirs.logprob, abs=1e-6)
                assert [i for i, _ in ours.top] == [i for i, _ in theirs.top]
    assert any(entry.prompt for job in together.values() for entry in job.logprobs)


def test_logprobs_are_those_of_transformers_in_float32(small_checkpoint: Path) -> None:
    lane = lane_for()
    job = lane.jobs[lane.admit(prompt(7), replace(GREEDY, logprobs=3))]
    settings = small_settings(small_checkpoint, tensor_parallel=2, dtype="float32")
    with group(settings) as (assembly, leader):
        finish_all(leader, lane)
        shape = leader.executor.model.cache_shape(4)
    lone = lone_greedy(small_checkpoint, prompt(7), 12, stop_token_ids=())
    assert job.tokens == lone.tokens
    assert [step.logprob for step in job.logprobs] == pytest.approx(lone.logprobs, abs=1e-4)
    one = assemble(small_settings(small_checkpoint, dtype="float32"), "me")
    assert assembly.info == replace(one.info, tensor_parallel=2), "to its lane it is one worker"
    whole = one.runner.executor.model.cache_shape(4)
    assert 2 * shape.bytes_per_block == whole.bytes_per_block
