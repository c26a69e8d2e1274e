"""Rows that choose a token: the kinds of request there are, their records, and random logits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from stepserve.protocol.sampling import MAX_LOGIT_BIASES, Sampling
from stepserve.protocol.step import Admission
from worker_svc.core.needs import StepNeeds
from worker_svc.kernels.choice import SampledRows
from worker_svc.kernels.record import pack_record

MAX_CONTEXT, PROMPT_TOKENS, NUM_TOKENS = 4096, 512, 1024
NUM_BIASES = 16
# What logits of random numbers are multiplied by: some tokens are much likelier than others.
SPREAD = 3.0


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of request, its sampling values, and the stages that it goes through."""

    name: str
    sampling: Sampling
    needs: StepNeeds


def kinds() -> Iterator[Kind]:
    """Every stage of the sampler, alone or with those it needs, then all of them."""
    drawn = Sampling(max_tokens=1)
    yield Kind("greedy", replace(drawn, temperature=0.0), StepNeeds())
    yield Kind("temperature 1", drawn, StepNeeds(draw=True))
    cut = StepNeeds(draw=True, cut=True)
    yield Kind("top_p 0.9", replace(drawn, top_p=0.9), cut)
    yield Kind("top_k 50", replace(drawn, top_k=50), cut)
    yield Kind("min_p 0.05", replace(drawn, min_p=0.05), cut)
    all_cut = replace(drawn, top_k=50, top_p=0.9, min_p=0.05)
    yield Kind("top_k, top_p, min_p", all_cut, cut)
    penalties = {"presence_penalty": 0.5, "frequency_penalty": 0.5, "repetition_penalty": 1.1}
    penalised = replace(all_cut, **penalties)  # type: ignore[arg-type]
    yield Kind("penalties", replace(penalised, temperature=0.0), StepNeeds(penalties=True))
    biases = tuple((7 * number, 2.0) for number in range(NUM_BIASES))
    yield Kind("bias", replace(drawn, logit_bias=biases), StepNeeds(bias=True, draw=True))
    yield Kind("5 logprobs", replace(drawn, logprobs=5), StepNeeds(draw=True, num_logprobs=5))
    everything = replace(penalised, logit_bias=biases, logprobs=5)
    yield Kind("everything", everything, StepNeeds(True, True, True, True, 5))


@dataclass(frozen=True, slots=True)
class Table:
    """Rows as ``SamplingTable`` has them."""

    token_ids: Tensor
    records: Tensor
    has_ended: Tensor
    bias_ids: Tensor
    bias_values: Tensor


def table_of(kind: Kind, num_rows: int, vocab_size: int, device: torch.device) -> Table:
    """Rows of ``PROMPT_TOKENS`` of ``NUM_TOKENS`` random tokens, each with a seed of its own."""
    generator = torch.Generator().manual_seed(4)
    tokens = torch.randint(0, vocab_size, (num_rows, MAX_CONTEXT), generator=generator)
    records = [
        torch.from_numpy(pack_record(_admission(kind, number), MAX_CONTEXT))
        for number in range(num_rows)
    ]
    ids = torch.zeros((num_rows, MAX_LOGIT_BIASES), dtype=torch.int32)
    values = torch.zeros((num_rows, MAX_LOGIT_BIASES))
    for column, (token_id, bias) in enumerate(kind.sampling.logit_bias):
        ids[:, column], values[:, column] = token_id, bias
    return Table(
        token_ids=tokens.int().to(device),
        records=torch.stack(records).to(device),
        # A number of a line lies further apart than a number, as in the worker.
        has_ended=torch.zeros((num_rows, 4), dtype=torch.int32, device=device)[:, 0],
        bias_ids=ids.to(device),
        bias_values=values.to(device),
    )


def rows_on(device: torch.device, num_rows: int) -> SampledRows:
    """Each row of a table, at the end of its tokens."""
    lines = torch.arange(num_rows, dtype=torch.int32, device=device)
    return SampledRows(lines, torch.full_like(lines, NUM_TOKENS))


def random_logits(
    num_rows: int, vocab_size: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """``[num_rows, vocab_size]``."""
    generator = torch.Generator(device).manual_seed(2)
    logits = torch.randn(num_rows, vocab_size, generator=generator, device=device)
    return (logits * SPREAD).to(dtype)


def _admission(kind: Kind, number: int) -> Admission:
    stops = (3, 5 + number % 7)
    return Admission(
        sequence_id=number,
        job_id="",
        index=0,
        token_ids=(0,) * NUM_TOKENS,
        num_prompt_tokens=PROMPT_TOKENS,
        sampling=replace(kind.sampling, seed=number, stop_token_ids=stops),
    )
