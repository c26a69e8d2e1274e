"""Runs the lines of a batch through a service, each as one job, and notes what came of it."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Any

from rich.progress import Progress as Bar
from rich.progress import TaskID

from stepserve.batch.file import BatchLine, Progress
from stepserve.client.aio import AsyncClient
from stepserve.client.completion import Collector
from stepserve.client.errors import (
    CallFailed,
    Exhausted,
    InvalidRequest,
    NotFound,
    StepserveError,
    Unavailable,
)
from stepserve.client.json_forms import completion_json
from stepserve.client.retry import RetryPolicy

# A service that is started by hand at the same time is waited for, but not for a minute.
CONTACT_TIMEOUT_S = 10.0
PATIENT_S = 1.0


async def served_models(target: str) -> str:
    """Return the names of what is served at ``target``; says on stderr when that takes long.

    Raises Unavailable where nothing is in reach.
    """
    async with AsyncClient(target, RetryPolicy(patience_s=CONTACT_TIMEOUT_S)) as client:
        asked = asyncio.ensure_future(client.models())
        if not (await asyncio.wait({asked}, timeout=PATIENT_S))[0]:
            print(f"stepserve: waiting for {target} ...", file=sys.stderr, flush=True)
        try:
            # A peer that swallows packets gives no answer at all.
            models = await asyncio.wait_for(asked, CONTACT_TIMEOUT_S)
        except (TimeoutError, Unavailable) as error:
            reason = str(error) or "no answer"
            raise Unavailable(f"no service at {target}: {reason}") from None
    return ",".join(sorted(model.name for model in models))


class BatchRun:
    """One run over the lines that have no result yet."""

    def __init__(self, client: AsyncClient, progress: Progress, max_jobs: int) -> None:
        self._client = client
        self._progress = progress
        self._places = asyncio.Semaphore(max_jobs)
        self._start_s = 0.0

    async def run(self, lines: Sequence[BatchLine], bar: Bar, task: TaskID) -> None:
        """Run all lines to their end. Raises where the service cannot be reached any more."""
        self._start_s = time.monotonic()
        waiting = [line for line in lines if line.number not in self._progress.results]
        bar.advance(task, len(lines) - len(waiting))
        await asyncio.gather(*(self._line(line, bar, task) for line in waiting))

    async def _line(self, line: BatchLine, bar: Bar, task: TaskID) -> None:
        await asyncio.sleep(self._start_s + line.arrival_s - time.monotonic())
        if line.request is None:
            result = _failed("INVALID_ARGUMENT", line.error)
        else:
            async with self._places:
                result = await self._job(line)
        self._progress.add(line.number, result)
        bar.advance(task)

    async def _job(self, line: BatchLine) -> dict[str, Any]:
        while True:
            try:
                return await self._stream(line)
            except Exhausted as error:
                await asyncio.sleep(error.retry_after_ms / 1000)
            except Unavailable:
                raise
            except StepserveError as error:
                return _failed(_code(error), str(error))

    async def _stream(self, line: BatchLine) -> dict[str, Any]:
        collector, sent_s, first_s = Collector(), time.monotonic(), 0.0
        async with aclosing(self._client.generate(line.request)) as events:
            async for event in events:
                if event.token_ids and not first_s:
                    first_s = time.monotonic()
                collector.add(event)
        ended_s = time.monotonic()
        done = collector.completion()
        return {
            **completion_json(done),
            "ttft_s": (first_s or ended_s) - sent_s,
            "latency_s": ended_s - sent_s,
        }


def _code(error: StepserveError) -> str:
    """Return the name of the gRPC status that stands for ``error``."""
    match error:
        case InvalidRequest():
            return "INVALID_ARGUMENT"
        case NotFound():
            return "NOT_FOUND"
        case CallFailed(code=code):
            return code
    return "UNKNOWN"


def _failed(code: str, message: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": message}}


def summary(
    results: Mapping[int, Mapping[str, Any]], num_earlier: int, wall_s: float
) -> dict[str, Any]:
    """Return the run's figures; times are those of the jobs that did not fail, in seconds.

    The first ``num_earlier`` results are of a run before this one: they count as jobs, but
    in no rate or time.
    """
    done = [result for result in list(results.values())[num_earlier:] if "error" not in result]
    num_failed = sum("error" in result for result in results.values())
    latencies = sorted(result["latency_s"] for result in done)
    firsts = sorted(result["ttft_s"] for result in done)
    num_tokens = sum(result["usage"]["completion_tokens"] for result in done)
    return {
        "jobs": len(results),
        "failed": num_failed,
        "earlier": num_earlier,
        "wall_s": round(wall_s, 3),
        "requests_per_s": round(len(done) / wall_s, 3) if done else 0.0,
        "output_tokens": num_tokens,
        "output_tokens_per_s": round(num_tokens / wall_s, 3) if done else 0.0,
        **{
            f"{name}_{label}": round(values[int(quantile * (len(values) - 1))], 4)
            if values
            else None
            for name, values in (("ttft_s", firsts), ("latency_s", latencies))
            for label, quantile in (("p50", 0.5), ("p99", 0.99))
        },
    }
