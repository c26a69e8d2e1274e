"""Runs the lines of a batch through a service, each as one job, and notes what came of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

from rich.progress import Progress as Bar
from rich.progress import TaskID

from stepserve.batch import openai_lines
from stepserve.batch.figures import LineRun
from stepserve.batch.file import BatchLine, Progress
from stepserve.client.aio import AsyncClient
from stepserve.client.completion import Collector
from stepserve.client.errors import Exhausted, StepserveError, Unavailable
from stepserve.client.json_forms import completion_json


class BatchRun:
    """One run over the lines that have no result yet."""

    def __init__(self, client: AsyncClient, progress: Progress, max_jobs: int) -> None:
        self._client = client
        self._progress = progress
        self._places = asyncio.Semaphore(max_jobs)
        self._start_s = 0.0

    async def run(self, lines: Sequence[BatchLine], bar: Bar, task: TaskID) -> list[LineRun]:
        """Run all lines to their end; return what was done for those that had none before.

        Raises Unavailable where the service cannot be reached any more.
        """
        self._start_s = time.monotonic()
        waiting = [line for line in lines if line.number not in self._progress.results]
        bar.advance(task, len(lines) - len(waiting))
        return await asyncio.gather(*(self._line(line, bar, task) for line in waiting))

    async def _line(self, line: BatchLine, bar: Bar, task: TaskID) -> LineRun:
        await asyncio.sleep(self._start_s + line.arrival_s - time.monotonic())
        if line.request is None:
            done = LineRun()
            result = failed(line, "INVALID_ARGUMENT", line.error)
        else:
            async with self._places:
                done, result = await self._job(line)
        self._progress.add(line.number, result)
        bar.advance(task)
        return done

    async def _job(self, line: BatchLine) -> tuple[LineRun, dict[str, Any]]:
        while True:
            try:
                return await self._stream(line)
            except Exhausted as error:
                await asyncio.sleep(error.retry_after_ms / 1000)
            except Unavailable:
                raise
            except StepserveError as error:
                return LineRun(), failed(line, error.code, str(error))

    async def _stream(self, line: BatchLine) -> tuple[LineRun, dict[str, Any]]:
        collector, sent_s, first_s, existed = Collector(), time.monotonic(), 0.0, False
        async with aclosing(self._client.generate(line.request)) as events:
            async for event in events:
                existed = existed or event.existed
                if event.token_ids and not first_s:
                    first_s = time.monotonic()
                collector.add(event)
        ended_s = time.monotonic()
        done = collector.completion()
        times = {"ttft_s": (first_s or ended_s) - sent_s, "latency_s": ended_s - sent_s}
        run = LineRun(
            is_done=True,
            was_there=existed,
            num_tokens=done.usage.completion_tokens,
            **times,
        )
        if line.is_openai:
            return run, openai_lines.result_of(line.payload, done)
        return run, {**custom_id(line), **completion_json(done), **times}


def custom_id(line: BatchLine) -> dict[str, Any]:
    """Return what a line is called by whoever wrote it, if it is."""
    return {"custom_id": line.payload["custom_id"]} if "custom_id" in line.payload else {}


def failed(line: BatchLine, code: str, message: str) -> dict[str, Any]:
    """Return the result of a line that failed; the line's number is told from 1 on."""
    error = {"code": code, "message": message, "line": line.number + 1}
    if line.is_openai:
        return openai_lines.failure_of(line.payload, error)
    return {**custom_id(line), "error": error}
