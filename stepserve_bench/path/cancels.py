"""How long a cancelled job holds what it had: from the call until its worker holds none of it."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from dataclasses import dataclass

from stepserve import AsyncClient, Request, SamplingParams
from stepserve_bench.measure.metrics import read_metrics
from stepserve_bench.path.clients import PROMPT

TOKENS = 900
HELD = "worker_sequences"
POLL_S = 0.002
TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Cancels:
    """``count`` jobs, one after another, each cancelled when it has some tokens.

    ``target``: the service; ``metrics``: its worker's, HOST:PORT.
    """

    target: str
    metrics: str
    count: int


def cancel_all(cancels: Cancels) -> list[float]:
    """Return how many seconds each held its place after its cancel was sent."""
    return asyncio.run(_cancel_all(cancels))


async def _cancel_all(cancels: Cancels) -> list[float]:
    async with AsyncClient(cancels.target) as client:
        return [await _cancel(client, cancels.metrics) for _ in range(cancels.count)]


async def _cancel(client: AsyncClient, metrics: str) -> float:
    sampling = SamplingParams(max_tokens=TOKENS, temperature=0.0, ignore_eos=True)
    job_id = await client.submit(Request(prompt_token_ids=PROMPT, sampling=sampling))
    async with aclosing(client.attach(job_id)) as events:
        await anext(events)
        await anext(events)
    asked_s = time.monotonic()
    await client.cancel(job_id)
    async with asyncio.timeout(TIMEOUT_S):
        while (await asyncio.to_thread(read_metrics, metrics, TIMEOUT_S))[HELD]:
            await asyncio.sleep(POLL_S)
    return time.monotonic() - asked_s
