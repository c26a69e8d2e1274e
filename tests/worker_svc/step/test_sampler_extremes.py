"""Every value that may be asked for, at its ends, in any company: a token, never an error."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor

from stepserve.protocol.sampling import Sampling
from tests.worker_svc.step.sampling import Case, sample

VOCAB_SIZE = 257
EVERY_ID = range(VOCAB_SIZE)
ENDS: dict[str, Sequence[object]] = {
    "temperature": (0.0, 1e-6, 1e-5, 1.0, 100.0),
    "top_p": (1e-9, 0.5, 1.0),
    "min_p": (0.0, 1.0),
    "top_k": (0, 1, VOCAB_SIZE, 2**32 - 1),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 0.0, 2.0),
    "repetition_penalty": (0.01, 1.0, 10.0),
    "logit_bias": (
        (),
        tuple((i, 100.0) for i in EVERY_ID),
        tuple((i, -100.0) for i in EVERY_ID),
        tuple((i, 100.0 if i % 2 else -100.0) for i in EVERY_ID),
    ),
    "logprobs": (-1, 20),
}


def extreme_cases() -> Iterator[Case]:
    """Every pair of two settings' ends, the rest at random ends."""
    rng = random.Random(7)
    for first, second in itertools.combinations(ENDS, 2):
        for values in itertools.product(ENDS[first], ENDS[second]):
            chosen = {name: rng.choice(ends) for name, ends in ENDS.items()}
            chosen |= dict(zip((first, second), values, strict=True))
            sampling = Sampling(max_tokens=50, seed=rng.getrandbits(64), **chosen)  # type: ignore[arg-type]
            output = tuple(rng.randrange(5) for _ in range(rng.randint(0, 30)))
            yield Case(sampling, prompt=(1, 256), output=output)


def raw_logits(kind: str, count: int, dtype: torch.dtype) -> Tensor:
    logits = torch.randn((count, VOCAB_SIZE), generator=torch.Generator().manual_seed(3))
    if kind == "flat":
        logits.zero_()
    if kind == "huge":  # the sum of a row is finite still
        logits = logits.sign() * 1e36
    return logits.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kind", ["usual", "flat", "huge"])
def test_every_row_gets_a_token_of_the_vocabulary(kind: str, dtype: torch.dtype) -> None:
    cases = list(extreme_cases())
    random.Random(1).shuffle(cases)
    for start in range(0, len(cases), 60):
        part = cases[start : start + 60]
        sampled = sample(part, raw_logits(kind, len(part), dtype))
        assert bool(sampled.is_finite.all())
        assert all(0 <= token_id < VOCAB_SIZE for token_id in sampled.token_ids.tolist())
        for at, logprobs in sampled.logprobs.items():
            assert len(logprobs.top) == part[at].sampling.logprobs
            assert logprobs.logprob <= 0


# More than is accepted: the worker's sampler must not depend on what others let through.
BEYOND = {
    "repetition_penalty": {"repetition_penalty": 1e-38},
    "no penalty at all": {"repetition_penalty": 1e-45},
    "logit_bias": {"logit_bias": ((5, 3.4e38), (6, -3.4e38)), "repetition_penalty": 0.01},
}


@pytest.mark.parametrize("name", BEYOND)
@pytest.mark.parametrize("cut", [{"top_p": 0.9}, {"min_p": 0.1}, {"top_k": 3}, {}], ids=str)
def test_scores_that_overflow_still_end_in_a_token(name: str, cut: dict[str, float]) -> None:
    sampling = Sampling(max_tokens=50, **{**BEYOND[name], **cut}, logprobs=3)  # type: ignore[arg-type]
    cases = [Case(sampling, prompt=(5, 6, 7), output=(5, 8)), Case(Sampling(max_tokens=50, seed=1))]
    logits = raw_logits("usual", 2, torch.float32)
    together = sample(cases, logits)
    assert together.is_finite.all()
    assert all(0 <= token_id < VOCAB_SIZE for token_id in together.token_ids.tolist())
    assert all(math.isfinite(logprob) for _, logprob in together.logprobs[0].top)
    alone = sample(cases[1:], logits[1:])
    assert int(alone.token_ids[0]) == int(together.token_ids[1])
