"""``stepserve batch IN OUT``: run a file of jobs through a service."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import time
from pathlib import Path

from pydantic import Field
from pydantic_settings import CliPositionalArg
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from stepserve.aio import AsyncClient
from stepserve.batch_file import BatchFailed, BatchLine, Progress, read_lines
from stepserve.batch_run import BatchRun, summary
from stepserve.commands.up import Up
from stepserve.serving import serve


class Batch(Up):
    """Run the jobs of IN.jsonl and write their results, in input order, to OUT.jsonl.

    An input line is a submit request as JSON, with the proto's field names, and may carry
    `arrival_s`, when to send it. Without --target the service is started for the run, with
    the options of `stepserve up`. A run that is interrupted goes on where it was when it is
    started again. The last line printed is a JSON object with the run's figures.
    """

    input: CliPositionalArg[Path] = Field(description="JSON lines, one job each")
    output: CliPositionalArg[Path] = Field(description="where the results go")
    model: str = Field("", description="checkpoint directory or hub id, where none is targeted")
    target: str = Field("", description="a running service's HOST:PORT")
    max_jobs: int = Field(1024, ge=1, description="jobs under way at once")

    def run(self) -> int:
        """Run; return 0 where every job has a result, though some may be errors."""
        if bool(self.target) == bool(self.model):
            raise BatchFailed("give --target of a running service, or --model to start one")
        digest, lines = read_lines(self.input)
        progress = Progress(self.output, digest)
        start_s = time.monotonic()
        try:
            if self.target:
                asyncio.run(self._run(self.target, lines, progress))
            else:
                self._run_own(lines, progress)
        except BaseException:
            progress.close()
            raise
        progress.finish()
        print(json.dumps(summary(progress.results, time.monotonic() - start_s)))
        return 0

    def _run_own(self, lines: list[BatchLine], progress: Progress) -> None:
        directory = self.output.with_name(f".{self.output.name}.jobs").absolute()
        own = {"input", "output", "model", "target", "max_jobs", "host", "port", "data_dir"}
        flags = self.model_dump(exclude=own, exclude_defaults=True)
        with serve(self.model, data_dir=directory, **flags) as served:
            asyncio.run(self._run(served.target, lines, progress))
        shutil.rmtree(directory)

    async def _run(self, target: str, lines: list[BatchLine], progress: Progress) -> None:
        columns = (TextColumn("jobs"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        console = Console(stderr=True)
        async with AsyncClient(target) as client:
            with Bar(*columns, console=console, disable=not sys.stderr.isatty()) as bar:
                task = bar.add_task("jobs", total=len(lines))
                await BatchRun(client, progress, self.max_jobs).run(lines, bar, task)
