"""How long a load is waited for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import cast

from stepserve import AsyncClient
from stepserve.protocol.inference import Request, StreamEvent
from stepserve.protocol.job import Finish
from stepserve_bench.workloads.jobs import BenchJob
from stepserve_bench.workloads.offer import offer
from stepserve_bench.workloads.outcome import Arrival


@dataclass(frozen=True, slots=True)
class Service:
    """Ends jobs of one token at once, and no other."""

    async def generate(self, request: Request) -> AsyncIterator[StreamEvent]:
        if request.sampling.max_tokens > 1:
            await asyncio.Event().wait()
        yield StreamEvent(job_id="a", index=0, offset=0, token_ids=[1], finish=Finish("length"))


def test_a_job_that_never_ends_is_waited_for_only_so_long() -> None:
    arrivals = [Arrival(0.0, BenchJob([10], max_tokens)) for max_tokens in (1, 2)]
    client = cast("AsyncClient", Service())
    found = asyncio.run(offer(client, arrivals, lambda _: None, timeout_s=0.05))
    assert [outcome.has_ended for outcome in found] == [True, False]
