"""The decoder's logits against transformers' own forward pass, however the tokens are batched."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
import torch

from tests.checkpoints import VARIANTS, lone_greedy, lone_logits
from tests.worker_svc.model.conftest import CheckpointOf
from tests.worker_svc.model.paged import PagedModel, PagedSequence, random_tokens
from worker_svc.kernels import select
from worker_svc.model.decoder import Decoder
from worker_svc.model.loading import load_model

TOLERANCE = {"float64": 1e-6, "float32": 1e-4}
PROMPT_LENGTH = 45


def load(checkpoint_of: CheckpointOf, variant: str, dtype: str, name: str = "torch") -> Decoder:
    return load_model(checkpoint_of(variant), dtype, "cpu", select(name, "cpu"))


def assert_same(
    sequence: PagedSequence, checkpoint_of: CheckpointOf, variant: str, dtype: str
) -> None:
    got = torch.cat(sequence.logits)
    want = lone_logits(checkpoint_of(variant), sequence.token_ids, dtype)
    torch.testing.assert_close(got, want, rtol=0, atol=TOLERANCE[dtype])


def run_ragged(paged: PagedModel, rng: random.Random) -> None:
    """Steps of random chunks and decodes of a random choice of the sequences, to their ends."""
    while live := [s for s in paged.sequences if s.num_computed < len(s.token_ids)]:
        chosen = rng.sample(live, rng.randint(1, len(live)))
        chunks = [1 if rng.random() < 0.4 else rng.randint(2, 19) for _ in chosen]
        left = [len(s.token_ids) - s.num_computed for s in chosen]
        paged.step([(s, min(n, m)) for s, n, m in zip(chosen, chunks, left, strict=True)])


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_whole_prefill(checkpoint_of: CheckpointOf, variant: str, dtype: str) -> None:
    model = load(checkpoint_of, variant, dtype)
    prompt = random_tokens(model.config.vocab_size, PROMPT_LENGTH, seed=1)
    paged = PagedModel(model, [prompt], block_size=16, seed=2)
    paged.step([(paged.sequences[0], PROMPT_LENGTH)])
    assert_same(paged.sequences[0], checkpoint_of, variant, dtype)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("block_size", [8, 16, 32])
@pytest.mark.parametrize("variant", VARIANTS)
def test_ragged_batches(
    checkpoint_of: CheckpointOf, variant: str, block_size: int, dtype: str
) -> None:
    model = load(checkpoint_of, variant, dtype)
    lengths = [1, 7, block_size, 2 * block_size + 1, PROMPT_LENGTH]
    prompts = [random_tokens(model.config.vocab_size, n, seed=n) for n in lengths]
    paged = PagedModel(model, prompts, block_size, seed=block_size)
    run_ragged(paged, random.Random(f"{variant} {block_size}"))
    for sequence in paged.sequences:
        assert_same(sequence, checkpoint_of, variant, dtype)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_chunked_prefill(checkpoint_of: CheckpointOf, variant: str, dtype: str) -> None:
    model = load(checkpoint_of, variant, dtype)
    prompt = random_tokens(model.config.vocab_size, PROMPT_LENGTH, seed=3)
    paged = PagedModel(model, [prompt], block_size=8, seed=4)
    rng = random.Random(variant)
    bounds = [0, *sorted(rng.sample(range(1, PROMPT_LENGTH), 4)), PROMPT_LENGTH]
    for start, end in pairwise(bounds):
        paged.step([(paged.sequences[0], end - start)])
    assert_same(paged.sequences[0], checkpoint_of, variant, dtype)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("variant", ["qwen3-layer-types", "llama-single-kv-tied"])
def test_ragged_batches_with_the_cpu_kernels(
    checkpoint_of: CheckpointOf, variant: str, dtype: str
) -> None:
    model = load(checkpoint_of, variant, dtype, "cpu")
    prompts = [random_tokens(model.config.vocab_size, n, seed=n) for n in (5, 33, PROMPT_LENGTH)]
    paged = PagedModel(model, prompts, block_size=16, seed=5)
    run_ragged(paged, random.Random(variant))
    for sequence in paged.sequences:
        assert_same(sequence, checkpoint_of, variant, dtype)


@pytest.mark.parametrize("variant", ["llama", "mistral-window", "qwen3-tied"])
def test_greedy_decoding_is_the_oracles(checkpoint_of: CheckpointOf, variant: str) -> None:
    directory = checkpoint_of(variant)
    model = load(checkpoint_of, variant, "float64")
    prompt = random_tokens(model.config.vocab_size, 12, seed=6)
    run = lone_greedy(directory, prompt, max_tokens=24, stop_token_ids=())
    paged = PagedModel(model, [[*prompt, *run.tokens]], block_size=8, seed=7)
    sequence = paged.sequences[0]
    chosen = []
    for num_tokens in [len(prompt), *[1] * (len(run.tokens) - 1)]:
        logits = paged.step([(sequence, num_tokens)], sampled="last")
        chosen.append(int(logits.argmax()))
    assert chosen == run.tokens
    assert min(run.margins) > 1e-5


def test_only_sampled_positions_have_logits(checkpoint_of: CheckpointOf) -> None:
    model = load(checkpoint_of, "llama", "float64")
    prompts = [random_tokens(model.config.vocab_size, n, seed=n) for n in (9, 4)]
    paged = PagedModel(model, prompts, block_size=8, seed=8)
    rows = [(sequence, len(sequence.token_ids)) for sequence in paged.sequences]
    logits = paged.step(rows, sampled="last")
    assert logits.shape == (2, model.config.vocab_size)
    for row, prompt in zip(logits, prompts, strict=True):
        want = lone_logits(checkpoint_of("llama"), prompt)[-1]
        torch.testing.assert_close(row, want, rtol=0, atol=1e-6)


def test_a_chunk_that_samples_nothing_still_fills_the_cache(checkpoint_of: CheckpointOf) -> None:
    model = load(checkpoint_of, "llama", "float64")
    prompt = random_tokens(model.config.vocab_size, 20, seed=9)
    paged = PagedModel(model, [prompt], block_size=8, seed=9)
    sequence = paged.sequences[0]
    assert paged.step([(sequence, 13)], sampled="none").shape == (0, model.config.vocab_size)
    logits = paged.step([(sequence, 7)], sampled="last")
    want = lone_logits(checkpoint_of("llama"), prompt)[-1:]
    torch.testing.assert_close(logits, want, rtol=0, atol=1e-6)


def test_blocks_of_other_sequences_are_not_read(checkpoint_of: CheckpointOf) -> None:
    model = load(checkpoint_of, "llama", "float64")
    prompts = [random_tokens(model.config.vocab_size, 21, seed=n) for n in (1, 2)]
    paged = PagedModel(model, prompts, block_size=8, seed=10)
    mine, other = paged.sequences
    paged.step([(mine, 20)])
    for index in range(model.config.num_layers):
        for part in paged.cache.layer(index):
            part[other.block_ids] = float("nan")
    paged.step([(mine, 1)])
    assert_same(mine, checkpoint_of, "llama", "float64")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_as_exact_as_transformers(
    checkpoint_of: CheckpointOf, dtype: str
) -> None:
    model = load(checkpoint_of, "qwen3-tied", dtype)
    prompt = random_tokens(model.config.vocab_size, PROMPT_LENGTH, seed=12)
    paged = PagedModel(model, [prompt], block_size=16, seed=13)
    got = paged.step([(paged.sequences[0], PROMPT_LENGTH)])
    assert got.dtype == getattr(torch, dtype)
    exact = lone_logits(checkpoint_of("qwen3-tied"), prompt, "float64")
    theirs = lone_logits(checkpoint_of("qwen3-tied"), prompt, dtype)
    our_error, their_error = (got - exact).square().mean(), (theirs - exact).square().mean()
    assert our_error < 1.2 * their_error
    assert (got - theirs).square().mean() < 1.2 * their_error
