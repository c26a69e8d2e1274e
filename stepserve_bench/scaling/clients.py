"""Clients in processes of their own: streams without a pause, and when their tokens came."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.synchronize import Event

from stepserve import AsyncClient
from stepserve.protocol.errors import StepserveError
from stepserve.protocol.inference import Request
from stepserve.protocol.sampling import SamplingParams
from stepserve_bench.oracle_worker.oracle import FIRST_TOKEN, NUM_TOKENS

PROMPT_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Demand:
    """So many streams at a time, each of one job of so many tokens after another."""

    targets: Sequence[str]
    num_streams: int
    num_tokens: int
    seed: int


@dataclass(slots=True)
class Served:
    """When (of the system's clock, in seconds) how many tokens came, and when jobs ended."""

    tokens: list[tuple[float, int]] = field(default_factory=list)
    ends_s: list[float] = field(default_factory=list)

    def within(self, begin_s: float, end_s: float) -> tuple[int, int]:
        """Return how many tokens came within a time, and how many jobs ended in it."""
        tokens = sum(count for at_s, count in self.tokens if begin_s <= at_s < end_s)
        return tokens, sum(begin_s <= at_s < end_s for at_s in self.ends_s)


_is_over: Event


def begin(is_over: Event) -> None:
    """Become a client process, until the event is set: then no more jobs are begun."""
    global _is_over  # noqa: PLW0603  # what a pool gives its processes once
    _is_over = is_over


def serve_demand(demand: Demand) -> Served:
    """Be one client process."""
    return asyncio.run(_streams(demand))


async def _streams(demand: Demand) -> Served:
    served, clients = Served(), [AsyncClient(target) for target in demand.targets]
    chance = random.Random(demand.seed)
    try:
        await asyncio.gather(
            *(
                _stream(clients[number % len(clients)], demand, chance, served)
                for number in range(demand.num_streams)
            )
        )
    finally:
        for client in clients:
            await client.close()
    return served


async def _stream(
    client: AsyncClient, demand: Demand, chance: random.Random, served: Served
) -> None:
    # The first is of another length for each: their ends do not come together.
    num_tokens = chance.randint(1, demand.num_tokens)
    while not _is_over.is_set():
        prompt = chance.choices(range(FIRST_TOKEN, FIRST_TOKEN + NUM_TOKENS), k=PROMPT_TOKENS)
        sampling = SamplingParams(max_tokens=num_tokens, temperature=0.0, ignore_eos=True)
        count = 0
        async for event in client.generate(Request(prompt_token_ids=prompt, sampling=sampling)):
            if event.token_ids:
                served.tokens.append((time.time(), len(event.token_ids)))
                count += len(event.token_ids)
        if count != num_tokens:
            raise StepserveError(f"a stream of {count} tokens, {num_tokens} were asked for")
        served.ends_s.append(time.time())
        num_tokens = demand.num_tokens
