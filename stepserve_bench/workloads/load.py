"""Jobs sent to a running service at given times, and when each of their tokens came."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from stepserve import AsyncClient
from stepserve.protocol.errors import StepserveError
from stepserve.protocol.inference import Request, StreamEvent
from stepserve.protocol.sampling import SamplingParams
from stepserve_bench.measure.measured import JobTimes
from stepserve_bench.workloads.jobs import BenchJob

NUM_WARM_UP_JOBS = 4
WARM_UP_PROMPT, WARM_UP_TOKENS = [10] * 24, 4
GATE_PROMPT = [10] * 8


@dataclass(frozen=True, slots=True)
class Arrival:
    """A job, and when it is due: seconds after the load began."""

    at_s: float
    job: BenchJob
    tenant: str = ""
    priority: int = 0

    def request(self) -> Request:
        return Request(
            prompt_token_ids=self.job.prompt_token_ids,
            sampling=SamplingParams(
                max_tokens=self.job.max_tokens, temperature=0.0, ignore_eos=True
            ),
            tenant=self.tenant,
            priority=self.priority,
        )


@dataclass(slots=True)
class Outcome:
    """What became of an arrival. Its times count from when it was due, not from when it was sent.

    A load generator that lags would otherwise hide the wait that it causes.
    """

    arrival: Arrival
    times: JobTimes
    job_id: str = ""
    token_ids: list[int] = field(default_factory=list)
    finish_reason: str = ""

    @property
    def has_ended(self) -> bool:
        """Whether it got every token that it asked for."""
        return self.finish_reason == "length"

    @property
    def ttft_s(self) -> float:
        return self.times.token_times_s[0] - self.times.submitted_s

    @property
    def latency_s(self) -> float:
        return self.times.token_times_s[-1] - self.times.submitted_s

    def take(self, event: StreamEvent) -> None:
        """Note one event of the job's stream, now."""
        self.job_id = event.job_id
        self.times.token_times_s += [time.time()] * len(event.token_ids)
        self.token_ids += event.token_ids
        self.finish_reason = event.finish_reason or self.finish_reason


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
    others are then left as they stand.
    ``ended`` is called with each that has ended.
    """
    start_s = time.time()
    outcomes = [Outcome(arrival, JobTimes(start_s + arrival.at_s)) for arrival in arrivals]

    async def run(outcome: Outcome) -> None:
        await asyncio.sleep(outcome.times.submitted_s - time.time())
        async for event in client.generate(outcome.arrival.request()):
            outcome.take(event)
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


async def burst(client: AsyncClient, jobs: Sequence[BenchJob], num_gates: int) -> list[Outcome]:
    """Run jobs that all wait, in order, before the first of them may run.

    ``num_gates`` jobs hold every place meanwhile (in static batches, one does) and are then
    cancelled. That moment is when every job counts as submitted: how long it takes to submit
    them all is no part of what is measured, and the first batch is as full as the others.
    """
    [model] = await client.models()
    gate = BenchJob(GATE_PROMPT, model.max_context - len(GATE_PROMPT))
    gates = [await _shut(client, gate) for _ in range(num_gates)]
    outcomes, streams = [], []
    for job in jobs:
        outcome = Outcome(Arrival(0.0, job), JobTimes(0.0))
        stream = client.generate(outcome.arrival.request())
        outcome.take(await anext(stream))  # it has an id: it is stored
        outcomes.append(outcome)
        streams.append(stream)
    start_s = time.time()
    for outcome in outcomes:
        outcome.times.submitted_s = start_s
    async with asyncio.TaskGroup() as group:
        for outcome, stream in zip(outcomes, streams, strict=True):
            group.create_task(_drain(stream, outcome))
        for job_id in gates:
            group.create_task(_open(client, job_id))
    return outcomes


async def _drain(stream: AsyncIterator[StreamEvent], outcome: Outcome) -> None:
    async for event in stream:
        outcome.take(event)


async def _shut(client: AsyncClient, gate: BenchJob) -> str:
    """Return the id of a gate that runs: one that still waits would share its batch with jobs."""
    async with aclosing(client.generate(Arrival(0.0, gate).request())) as events:
        async for event in events:
            if event.token_ids:
                return event.job_id
    raise StepserveError("the job that holds a place ended before it had a token")


async def _open(client: AsyncClient, gate: str) -> None:
    """Cancel a gate. Raises StepserveError where it was open already."""
    job = await client.cancel(gate)
    if any(output.finish and output.finish.reason != "cancelled" for output in job.outputs):
        raise StepserveError("submitting the jobs took longer than the longest job: fewer jobs")
