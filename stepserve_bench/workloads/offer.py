"""Jobs sent to a running service: one now, or each when it is due."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from stepserve import AsyncClient
from stepserve.client.errors import Exhausted, Infeasible
from stepserve_bench.workloads.jobs import BenchJob
from stepserve_bench.workloads.outcome import Arrival, JobTimes, Outcome

NUM_WARM_UP_JOBS = 4
WARM_UP_PROMPT, WARM_UP_TOKENS = [10] * 24, 4


async def run_job(client: AsyncClient, arrival: Arrival) -> Outcome:
    """Run one job now, whenever it is due."""
    outcome = Outcome(arrival, JobTimes(time.time()))
    async for event in client.generate(arrival.request()):
        outcome.take(event)
    return outcome


async def warm_up(client: AsyncClient) -> None:
    """Run a few small jobs, so that nothing is done for the first time later."""
    small = Arrival(0.0, BenchJob(WARM_UP_PROMPT, WARM_UP_TOKENS))
    await asyncio.gather(*(run_job(client, small) for _ in range(NUM_WARM_UP_JOBS)))


async def offer(
    client: AsyncClient,
    arrivals: Sequence[Arrival],
    ended: Callable[[Outcome], object],
    is_awaited: Callable[[Arrival], bool] = lambda _: True,
    timeout_s: float | None = None,
) -> list[Outcome]:
    """Send each job when it is due, whatever became of those before: an open loop.

    Returns when all that are awaited have ended, or ``timeout_s`` seconds after the start; the
    others are then left as they stand. One that has a deadline may be refused.
    ``ended`` is called with each that has ended.
    """
    start_s = time.time()
    outcomes = [Outcome(arrival, JobTimes(start_s + arrival.at_s)) for arrival in arrivals]

    async def run(outcome: Outcome) -> None:
        await asyncio.sleep(outcome.times.submitted_s - time.time())
        try:
            async for event in client.generate(outcome.arrival.request()):
                outcome.take(event)
        except (Exhausted, Infeasible):
            if not outcome.arrival.deadline_s:
                raise
            outcome.is_refused = True
        ended(outcome)

    tasks = [asyncio.ensure_future(run(outcome)) for outcome in outcomes]
    awaited = [task for task, arrival in zip(tasks, arrivals, strict=True) if is_awaited(arrival)]
    try:
        if awaited:
            done, _ = await asyncio.wait(
                awaited, timeout=timeout_s, return_when=asyncio.FIRST_EXCEPTION
            )
            for task in done:
                task.result()  # raises what it failed with
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return outcomes
