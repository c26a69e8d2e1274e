"""Invariant 1 as a function: what a service gave, against what each job gives alone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stepserve import AsyncClient
from stepserve.protocol.inference import Request, StreamEvent
from stepserve.protocol.prompt_logprobs import PromptLogprobs
from stepserve.protocol.sampling import SamplingParams
from tests.checkpoints import EOS_TOKEN_ID, lone_check, lone_logits

# In float32 another order of the same sums may choose otherwise where the lone run's
# choice leads by less than this; what follows in that output cannot be compared.
TIE_MARGINS = {"float32": 1e-4, "float64": 0.0}
LOGPROB_TOLERANCE = {"float32": 1e-4, "float64": 1e-6}


@dataclass(frozen=True, slots=True)
class OracleJob:
    """A greedy job with log-probabilities; all its ``n`` outputs are the same.

    Of prompts of an even number of tokens, the prompt's too.
    """

    prompt_token_ids: list[int]
    max_tokens: int
    ignore_eos: bool
    n: int = 1
    tenant: str = ""
    priority: int = 0

    def request(self) -> Request:
        sampling = SamplingParams(
            temperature=0.0,
            max_tokens=self.max_tokens,
            ignore_eos=self.ignore_eos,
            logprobs=2,
            prompt_logprobs=1 if self.is_scored else None,
            n=self.n,
        )
        return Request(
            prompt_token_ids=self.prompt_token_ids,
            sampling=sampling,
            tenant=self.tenant,
            priority=self.priority,
        )

    @property
    def is_scored(self) -> bool:
        return len(self.prompt_token_ids) % 2 == 0

    def num_tokens(self, token_ids: Sequence[int]) -> int:
        """How many tokens it has to give where these are the first of them."""
        if self.ignore_eos or EOS_TOKEN_ID not in token_ids:
            return self.max_tokens
        return token_ids.index(EOS_TOKEN_ID) + 1


@dataclass(slots=True)
class Output:
    """One streamed output, its events joined."""

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    prompt: PromptLogprobs | None = None
    text: str = ""
    finish_reason: str = ""

    def add(self, event: StreamEvent, first: int = 0) -> None:
        assert event.offset == first + len(self.token_ids) or not event.token_ids, "gap or repeat"
        if event.logprobs and not event.offset:
            self.prompt = event.logprobs[0].prompt
        self.token_ids += event.token_ids
        self.logprobs += [entry.logprob for entry in event.logprobs]
        self.text += event.text
        if event.finish is not None:
            assert not self.finish_reason, "ended twice"
            self.finish_reason = event.finish.reason


def jobs(seed: int, vocab_size: int, count: int = 32) -> list[OracleJob]:
    """Return jobs of mixed lengths: some of one token, some of several blocks and chunks."""
    chance = random.Random(seed)
    lengths = (1, 2, 7, 16, 17, 33, 48, 70)
    return [
        OracleJob(
            [chance.randrange(1, vocab_size) for _ in range(chance.choice(lengths))],
            chance.choice((1, 2, 9, 16, 24, 40)),
            ignore_eos=chance.random() < 0.7,
        )
        for _ in range(count)
    ]


def mixed_jobs(seed: int, vocab_size: int, count: int) -> list[OracleJob]:
    """Return jobs of two tenants and three priorities; many share beginnings, some have n > 1.

    Of those that share one, some are wholly the beginning of another, to the block.
    """
    chance = random.Random(seed)
    beginnings = [_tokens(chance, vocab_size, length) for length in (16, 40)]
    return [
        OracleJob(
            chance.choice((*beginnings, []))
            + _tokens(chance, vocab_size, chance.choice((1, 3, 8, 16, 24))),
            chance.choice((1, 6, 20, 36)),
            ignore_eos=chance.random() < 0.7,
            n=chance.choice((1, 1, 1, 2, 3)),
            tenant=chance.choice(("", "a", "b")),
            priority=chance.choice((0, 0, 1, 5)),
        )
        for _ in range(count)
    ]


def _tokens(chance: random.Random, vocab_size: int, count: int) -> list[int]:
    return [chance.randrange(1, vocab_size) for _ in range(count)]


async def collect_each(client: AsyncClient, job_id: str, n: int) -> list[Output]:
    """Attach and follow every output of a job to the end."""
    outputs = [Output() for _ in range(n)]
    async for event in client.attach(job_id):
        outputs[event.index].add(event)
    return outputs


async def collect(client: AsyncClient, job_id: str, offset: int = 0) -> Output:
    """Attach and follow to the end."""
    output = Output()
    async for event in client.attach(job_id, offset):
        output.add(event, offset)
    return output


def compare(output: Output, checkpoint: Path, job: OracleJob, dtype: str) -> int:
    """Assert that an output is the lone run's; return 1 where a near-tie was excused."""
    lone = lone_check(checkpoint, job.prompt_token_ids, output.token_ids, dtype)
    last = len(lone.tokens) - 1
    compare_prompt(output, checkpoint, job, dtype)
    differs = lone.tokens[last] != output.token_ids[last]
    for i in range(last if differs else last + 1):
        assert abs(output.logprobs[i] - lone.logprobs[i]) <= LOGPROB_TOLERANCE[dtype], (
            f"log-probability of token {i}: {output.logprobs[i]} against {lone.logprobs[i]}"
        )
    if differs:
        assert lone.margins[last] < TIE_MARGINS[dtype], (
            f"token {last} is {output.token_ids[last]}, alone {lone.tokens[last]}, "
            f"which led by {lone.margins[last]:.3g}"
        )
        return 1
    assert len(output.token_ids) == job.num_tokens(output.token_ids)
    ended_by_eos = not job.ignore_eos and output.token_ids[-1] == EOS_TOKEN_ID
    assert output.finish_reason == ("stop" if ended_by_eos else "length")
    return 0


def compare_prompt(output: Output, checkpoint: Path, job: OracleJob, dtype: str) -> None:
    """Assert that exactly those who asked have their prompt's log-probabilities, and no others'."""
    prompt = job.prompt_token_ids
    assert (output.prompt is not None) == job.is_scored
    if output.prompt is None:
        return
    lone = lone_logits(checkpoint, prompt, dtype).double().log_softmax(-1)
    told, tolerance = list(output.prompt), LOGPROB_TOLERANCE[dtype]
    assert len(told) == len(prompt) - 1
    for at, (entry, token_id) in enumerate(zip(told, prompt[1:], strict=True)):
        assert abs(entry.logprob - float(lone[at, token_id])) <= tolerance, f"prompt token {at + 1}"
        [(likely, likeliest)] = entry.top
        assert abs(likeliest - float(lone[at].max())) <= tolerance, f"likeliest at {at + 1}"
        assert abs(likeliest - float(lone[at, likely])) <= tolerance, f"its id at {at + 1}"


def compare_all(
    outputs: Sequence[Output], checkpoint: Path, asked: Sequence[OracleJob], dtype: str
) -> int:
    """Compare every output; return how many near-ties were excused, and print them."""
    excused = sum(
        compare(output, checkpoint, job, dtype) for output, job in zip(outputs, asked, strict=True)
    )
    print(f"{checkpoint.name} {dtype}: {len(asked)} jobs, {excused} excused for near-ties")
    return excused
