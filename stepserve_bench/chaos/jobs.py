"""The jobs that are disturbed, and what each gives undisturbed."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from stepserve import AsyncClient, Request, SamplingParams
from stepserve.protocol.sampling import Sampling
from stepserve_bench.oracle_worker.oracle import FIRST_TOKEN, NUM_TOKENS, output_of

# An output's tokens, and why it ended.
Output = tuple[Sequence[int], str]
# Beginnings that many jobs share, in tokens.
SHARED = (0, 0, 32, 75)
MIN_OWN, MAX_OWN = 3, 60
MAX_PROMPT = max(SHARED) + MAX_OWN


@dataclass(frozen=True, slots=True)
class ChaosJob:
    """What is asked for, every choice made: no default of the service's is in it."""

    number: int
    prompt_token_ids: tuple[int, ...]
    sampling: SamplingParams
    tenant: str

    @property
    def n(self) -> int:
        return self.sampling.n or 1

    def request(self) -> Request:
        return Request(
            prompt_token_ids=self.prompt_token_ids, sampling=self.sampling, tenant=self.tenant
        )


def draw_jobs(seed: int, max_tokens: int) -> Iterator[ChaosJob]:
    """Yield jobs without end: of up to ``max_tokens`` tokens, at least a third of that.

    Some share a beginning, some are drawn with a seed, some have several outputs, and some end
    at a token that may come.
    """
    chance = random.Random(f"jobs {seed}")
    tokens = range(FIRST_TOKEN, FIRST_TOKEN + NUM_TOKENS)
    beginnings = [tuple(chance.choices(tokens, k=length)) for length in SHARED]
    for number in itertools.count():
        own = tuple(chance.choices(tokens, k=chance.randint(MIN_OWN, MAX_OWN)))
        yield ChaosJob(
            number,
            chance.choice(beginnings) + own,
            SamplingParams(
                max_tokens=chance.randint(max(1, max_tokens // 3), max_tokens),
                ignore_eos=True,
                temperature=chance.choice((0.0, 0.0, 1.0)),
                seed=chance.randrange(2**32),
                n=chance.choice((1, 1, 1, 1, 1, 1, 1, 2)),
                stop_token_ids=chance.choice(((), (), (), (chance.choice(tokens),))),
            ),
            chance.choice(("", "a", "b")),
        )


class Truth(Protocol):
    """What each job gives when nothing disturbs it."""

    def outputs(self, job: ChaosJob) -> Sequence[Output]:
        """Return all outputs of a job, by index."""


class OracleTruth:
    """Of oracle workers: it is computed."""

    def __init__(self, max_context: int) -> None:
        self._max_context = max_context

    def outputs(self, job: ChaosJob) -> Sequence[Output]:
        asked = job.sampling
        sampling = Sampling(
            max_tokens=asked.max_tokens or 0,
            temperature=asked.temperature or 0.0,
            seed=asked.seed or 0,
            stop_token_ids=tuple(asked.stop_token_ids or ()),
        )
        prompt, context = job.prompt_token_ids, self._max_context
        return [output_of(prompt, sampling, context, index) for index in range(job.n)]


class RecordedTruth:
    """Of a model: every job was run before anything was disturbed."""

    def __init__(self, outputs: Mapping[int, Sequence[Output]]) -> None:
        self._outputs = outputs

    def outputs(self, job: ChaosJob) -> Sequence[Output]:
        return self._outputs[job.number]

    @classmethod
    async def learn(cls, client: AsyncClient, jobs: Sequence[ChaosJob]) -> RecordedTruth:
        """Run the jobs, each alone, and let the service forget them: they are nobody's."""
        outputs: dict[int, Sequence[Output]] = {}
        for job in jobs:
            done = await client.complete(job.request())
            outputs[job.number] = [(out.token_ids, out.finish_reason) for out in done.outputs]
            await client.delete(done.job_id)
        return cls(outputs)
