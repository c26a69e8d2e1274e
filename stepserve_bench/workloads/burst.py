"""Jobs that all wait at a running service before the first of them may run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing

from stepserve import AsyncClient
from stepserve.protocol.errors import StepserveError
from stepserve.protocol.inference import StreamEvent
from stepserve_bench.workloads.jobs import BenchJob
from stepserve_bench.workloads.outcome import Arrival, JobTimes, Outcome

GATE_PROMPT = [10] * 8


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
    """Return the id of a gate that runs: one that still waits would be in a batch with jobs."""
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
