"""``stepserve batch IN OUT``: run a file of jobs through a service."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from pydantic import Field
from pydantic_settings import (
    BaseSettings,
    CliPositionalArg,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
)
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from stepserve.batch.figures import LineRun, failed_lines, in_words, summary
from stepserve.batch.file import (
    BatchFailed,
    BatchLine,
    Progress,
    check_output,
    parse_lines,
    read_input,
)
from stepserve.batch.run import BatchRun
from stepserve.client.aio import AsyncClient
from stepserve.client.retry import RetryPolicy
from stepserve.commands.connection import Targeted, Waiting
from stepserve.commands.up import Up
from stepserve.local.serving import serve
from stepserve.modelfiles.sources import ModelList
from stepserve.protocol.errors import Unavailable
from stepserve.tls.settings import AccessSettings

MAX_TOLD_FAILURES = 20


class _Environment(EnvSettingsSource):
    """The environment, in which neither --target nor --model counts where a flag gives one."""

    def __call__(self) -> dict[str, Any]:
        either = {"target", "model"}
        hidden = either if either & self.current_state.keys() else set()
        return {name: value for name, value in super().__call__().items() if name not in hidden}


class Batch(Targeted, Up):
    """Run the jobs of IN.jsonl and write their results, in input order, to OUT.jsonl.

    An input line is a submit request as JSON, with the proto's field names, or OpenAI's form,
    which vLLM's run-batch takes as well: `custom_id`, `url`, `body`; its result has that form.
    A line may carry `arrival_s`, when to send it, and `custom_id`, which its result repeats.
    Without --target the service is started for the run, with the options of `stepserve up`. A
    run that is interrupted goes on where it was when it is started again. The last line printed
    is a JSON object with the run's figures: `earlier` counts results of runs before, `joined` jobs
    that had been submitted already and were followed to their end; rates and times are those of
    the other jobs, `output_tokens` are all. Lines that failed are named before, and make the exit
    status 1.
    """

    input: CliPositionalArg[Path] = Field(description="JSON lines, one job each")
    output: CliPositionalArg[Path] = Field(description="where the results go")
    model: ModelList = Field(
        [], description="checkpoint directory or hub id, where none is targeted; see stepserve up"
    )
    target: str = Field("", description="a running service's HOST:PORT")
    max_jobs: int = Field(1024, ge=1, description="jobs under way at once")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 (replaced)
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, _Environment(settings_cls), dotenv_settings, file_secret_settings

    def run(self) -> int:
        """Run; return 0 where no line failed, 1 where some did: all have a result then."""
        if bool(self.target) == bool(self.model):
            told = "--target of a running service, or --model to start one"
            raise BatchFailed(f"give {told}{', not both' * bool(self.target)}")
        content = read_input(self.input)
        check_output(self.output, self.input)
        digest, lines = parse_lines(content, self._model())
        progress = Progress(self.output, digest)
        start_s = time.monotonic()
        try:
            runs = self._run_rest(lines, progress)
            progress.finish()
        except (KeyboardInterrupt, SystemExit, Unavailable):
            print(f"stepserve: interrupted; {self._left()}", file=sys.stderr)
            raise
        finally:
            progress.close()
        wall_s = time.monotonic() - start_s
        _tell_failures(failed_lines(progress.results), self.output)
        figures = summary(progress.results, runs, wall_s)
        if told := in_words(figures):
            print(f"stepserve: {told}", file=sys.stderr, flush=True)
        print(json.dumps(figures), flush=True)
        return 1 if figures["failed"] else 0

    def _left(self) -> str:
        """Return what becomes of what was submitted."""
        going_on = "what was submitted goes on in the service, and "
        return f"{going_on * bool(self.target)}the same command goes on from here"

    def _model(self) -> str:
        """Return what tells one model from another: results of one are not another's."""
        if self.target:
            with self.client() as client:
                return ",".join(sorted(model.name for model in client.models()))
        return ",".join(str(Path(m).resolve()) if Path(m).exists() else m for m in self.model)

    def _run_rest(self, lines: list[BatchLine], progress: Progress) -> list[LineRun]:
        if self.target or len(progress.results) == len(lines):
            with self.explained():
                return asyncio.run(self._run(self.target, lines, progress))
        directory = self.output.with_name(f".{self.output.name}.jobs").absolute()
        own = {"input", "output", "model", "target", "max_jobs", "host", "port", "data_dir"}
        # Nobody else comes to a service of our own: it asks for nothing.
        own |= {"progress", *Targeted.model_fields, *AccessSettings.model_fields}
        flags = self.model_dump(exclude=own, exclude_defaults=True)
        with serve(*self.model, data_dir=directory, progress=self.progress, **flags) as served:
            runs = asyncio.run(self._run(served.target, lines, progress))
        shutil.rmtree(directory, ignore_errors=True)
        return runs

    def _client(self, target: str) -> AsyncClient:
        credentials = self.credentials() if self.target else None
        key = self.api_key.get_secret_value() or None
        return AsyncClient(target, RetryPolicy(tell=Waiting()), credentials, api_key=key)

    async def _run(self, target: str, lines: list[BatchLine], progress: Progress) -> list[LineRun]:
        columns = (TextColumn("jobs"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        console = Console(stderr=True)
        async with self._client(target) as client:
            with Bar(*columns, console=console, disable=not sys.stderr.isatty()) as bar:
                task = bar.add_task("jobs", total=len(lines))
                return await BatchRun(client, progress, self.max_jobs).run(lines, bar, task)


def _tell_failures(failures: list[tuple[int, str]], output: Path) -> None:
    """Say which lines failed, the first of them with why."""
    for number, problem in failures[:MAX_TOLD_FAILURES]:
        print(f"stepserve: line {number}: {problem}", file=sys.stderr)
    if (num_more := len(failures) - MAX_TOLD_FAILURES) > 0:
        print(f"stepserve: and {num_more} lines more failed, see {output}", file=sys.stderr)
