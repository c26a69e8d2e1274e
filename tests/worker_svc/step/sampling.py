"""Rows of every kind for the sampler, and one row at a time in plain Python to compare with."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stepserve.protocol.sampling import MAX_LOGIT_BIASES, Sampling
from stepserve.protocol.step import Admission, TokenLogprobs
from worker_svc.core.limits import Limits
from worker_svc.core.residents import Resident
from worker_svc.kernels import Kernels, select
from worker_svc.kernels.philox import uniforms_reference
from worker_svc.kernels.record import RECORD_WORDS, pack_biases, pack_record
from worker_svc.step.sampler import Choice, SampledRows, Sampler, StepNeeds

VOCAB_SIZE = 600
LIMITS = Limits(VOCAB_SIZE, 64, 4, 64, 64, 64)
TORCH = select("torch", "cpu")
PADDED = -1


@dataclass(frozen=True)
class Case:
    """One row: what it has generated so far, and how the next token is chosen."""

    sampling: Sampling
    prompt: tuple[int, ...] = (1, 2, 3)
    output: tuple[int, ...] = ()
    index: int = 0

    def resident(self) -> Resident:
        tokens = self.prompt + self.output
        admission = Admission(0, "", self.index, tokens, len(self.prompt), self.sampling)
        return Resident.of(admission, LIMITS.max_context)


class Table:
    """``SamplingTable`` with rows at ids of their own.

    As in the worker's table, what a row has one number of lies further apart than a number.
    """

    def __init__(self, num_rows: int = LIMITS.max_batch_size) -> None:
        shape = (num_rows, LIMITS.max_context)
        self.token_ids = torch.zeros(shape, dtype=torch.int32)
        self.records = torch.zeros((num_rows, RECORD_WORDS), dtype=torch.int32)
        self.has_ended = torch.zeros((num_rows, 4), dtype=torch.int32)[:, 0]
        self.bias_ids = torch.zeros((num_rows, MAX_LOGIT_BIASES), dtype=torch.int32)
        self.bias_values = torch.zeros((num_rows, MAX_LOGIT_BIASES))

    def admit(self, case: Case, row_id: int) -> None:
        """Write the case's row."""
        resident = case.resident()
        admission = resident.admission
        tokens = torch.tensor(admission.token_ids, dtype=torch.int32)
        self.token_ids[row_id, : len(tokens)] = tokens
        self.records[row_id] = torch.from_numpy(pack_record(admission, resident.max_tokens))
        ids, biases = map(torch.from_numpy, pack_biases(case.sampling))
        self.bias_ids[row_id, : len(ids)] = ids
        self.bias_values[row_id, : len(ids)] = biases.view(torch.float32)


def tabled(cases: Sequence[Case]) -> tuple[Table, SampledRows, StepNeeds]:
    """A fresh table with the rows at shuffled ids."""
    table = Table()
    row_ids = random.Random(len(cases)).sample(range(LIMITS.max_batch_size), len(cases))
    for case, row_id in zip(cases, row_ids, strict=True):
        table.admit(case, row_id)
    positions = [len(case.prompt) + len(case.output) for case in cases]
    rows = SampledRows(*torch.tensor([row_ids, positions], dtype=torch.int32).reshape(2, -1))
    return table, rows, StepNeeds.of([case.resident() for case in cases])


@dataclass(frozen=True)
class Sampled:
    """What rows chose, on the host; log-probabilities by row, where asked for."""

    token_ids: Tensor
    is_finite: Tensor
    logprobs: dict[int, TokenLogprobs]


def sample(cases: Sequence[Case], logits: Tensor, kernels: Kernels = TORCH) -> Sampled:
    """Through a fresh table and sampler."""
    table, rows, needs = tabled(cases)
    before = logits.clone()
    choice = Sampler(table, kernels).choose(logits, rows, needs)
    assert torch.equal(before, logits) or bool(logits.isnan().any())
    return Sampled(choice.token_ids.long(), choice.is_finite.bool(), told(cases, choice))


def told(cases: Sequence[Case], choice: Choice) -> dict[int, TokenLogprobs]:
    """As a report has them."""
    if choice.logprobs is None:
        return {}
    rows = zip(*(part.tolist() for part in choice.logprobs), strict=True)
    counts = [case.sampling.logprobs for case in cases]
    return {
        at: TokenLogprobs(chosen, tuple(zip(ids[:count], top[:count], strict=True)))
        for at, (count, (chosen, ids, top)) in enumerate(zip(counts, rows, strict=True))
        if count >= 0
    }


def adjusted(case: Case, logits: Sequence[float]) -> list[float]:
    """Penalties, then bias."""
    sampling, scores = case.sampling, list(logits)
    for token_id in {*case.prompt, *case.output}:
        if scores[token_id] > 0:
            scores[token_id] /= f32(sampling.repetition_penalty)
        else:
            scores[token_id] *= f32(sampling.repetition_penalty)
    for token_id in set(case.output):
        count = case.output.count(token_id)
        scores[token_id] -= f32(sampling.frequency_penalty) * count
        scores[token_id] -= f32(sampling.presence_penalty)
    for token_id, bias in sampling.logit_bias:
        scores[token_id] += f32(bias)
    return scores


def probabilities(case: Case, logits: Sequence[float]) -> list[float]:
    """Temperature, min_p, top_k, top_p."""
    return truncated(case, logits)[0]


def truncated(case: Case, logits: Sequence[float]) -> tuple[list[float], float]:
    """The probabilities, and how near a token's is to being cut or kept by min_p or top_p."""
    sampling = case.sampling
    weights = softmax([score / f32(sampling.temperature) for score in adjusted(case, logits)])
    least = f32(sampling.min_p) * max(weights)
    # How many nats; the likeliest token always stays.
    nearness = [abs(math.log(w / least)) for w in weights if w > 0 < least and w < max(weights)]
    weights = [w if w >= least else 0.0 for w in weights]
    if sampling.top_k:
        kth = sorted(weights, reverse=True)[min(sampling.top_k, len(weights)) - 1]
        weights = [w if w >= kth else 0.0 for w in weights]
    bound, mass = f32(sampling.top_p) * sum(weights), 0.0
    for token_id in sorted(range(len(weights)), key=lambda i: -weights[i]):
        if sampling.top_p < 1 and mass >= bound:
            weights[token_id] = 0.0
        mass += weights[token_id]
        if sampling.top_p < 1:
            nearness.append(abs(mass / bound - 1))
    return [w / sum(weights) for w in weights], min(nearness, default=math.inf)


def softmax(scores: Sequence[float]) -> list[float]:
    weights = [math.exp(score - max(scores)) for score in scores]
    return [w / sum(weights) for w in weights]


def f32(value: float) -> float:
    """Values arrive as float32, the reference computes with the same ones."""
    return float(torch.tensor(value, dtype=torch.float32))


def draw(case: Case, logits: Sequence[float]) -> tuple[int, float]:
    """The token, and how near the row is to another: its uniform number's distance to the next
    token's share, or that of a bound to the token it cuts off.
    """
    seed = case.sampling.seed
    uniform = float(
        uniforms_reference(
            torch.tensor([seed - (1 << 64 if seed >= 1 << 63 else 0)]),
            torch.tensor([case.index]),
            torch.tensor([len(case.output)]),
        )
    )
    below = 0.0
    probabilities, nearness = truncated(case, logits)
    for token_id, probability in enumerate(probabilities):
        if uniform < below + probability:
            return token_id, min(uniform - below, below + probability - uniform, nearness)
        below += probability
    raise AssertionError("the probabilities do not sum to 1")


def random_cases(count: int, seed: int) -> list[Case]:
    rng = random.Random(seed)
    return [random_case(rng) for _ in range(count)]


def random_case(rng: random.Random, vocab_size: int = VOCAB_SIZE) -> Case:
    bias_ids = rng.sample(range(vocab_size), rng.choice([0, 0, 3]))
    sampling = Sampling(
        max_tokens=50,
        temperature=rng.choice([0.0, 0.3, 1.0, 1.0, 2.5]),
        top_p=rng.choice([1.0, 0.1, 0.6, 0.95, 0.999]),
        top_k=rng.choice([0, 0, 1, 7, vocab_size // 2, 5000]),
        min_p=rng.choice([0.0, 0.0, 0.02, 0.4]),
        seed=rng.getrandbits(64),
        presence_penalty=rng.choice([0.0, 0.0, 1.5, -0.5]),
        frequency_penalty=rng.choice([0.0, 0.0, 0.8]),
        repetition_penalty=rng.choice([1.0, 1.0, 1.3, 0.8]),
        logit_bias=tuple((token_id, rng.uniform(-9, 9)) for token_id in bias_ids),
        logprobs=rng.choice([-1, -1, 0, 5]),
    )
    return Case(
        sampling,
        prompt=tuple(rng.randrange(30) for _ in range(rng.randint(1, 9))),
        output=tuple(rng.randrange(30) for _ in range(rng.randint(0, 20))),
        index=rng.randrange(4),
    )


def random_logits(
    count: int, dtype: torch.dtype, seed: int, spread: float = 3.0, vocab_size: int = VOCAB_SIZE
) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn((count, vocab_size), generator=generator) * spread).to(dtype)
