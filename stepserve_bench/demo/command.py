"""``stepserve bench example``: four jobs in batches of three, told step by step.

With ``--pipeline``: six through two stages, told tick by tick.

The experiment that texts on continuous and selective batching print: inputs of 3, 2, 1, 4
tokens, outputs of 5, 8, 3, 6. Theirs draws random numbers for tokens and for ends; this one
runs a model through the whole service, and a job ends when it has all its tokens.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict
from rich.console import Console
from rich.table import Table

from scheduler_svc.queue.embedded import EmbeddedRedis
from stepserve import Client, SamplingParams
from stepserve.local.processes import Service, Supervisor
from stepserve.local.serving import serve
from stepserve_bench.demo.narration import Narrator, Told, worked
from stepserve_bench.demo.pipeline import Pipeline, print_stages, write_stages
from stepserve_bench.demo.storyteller import MODEL_DIR
from stepserve_bench.demo.timeline import Track, print_timeline, write_svg
from stepserve_bench.measure.figures import percentile
from stepserve_bench.measure.recorded import RecordedStep, read_steps


@dataclass(frozen=True, slots=True)
class Jobs:
    """Prompts, and how many tokens each is to get."""

    prompts: Sequence[list[int]]
    outputs: Sequence[int]


PROMPTS = ([11, 12, 13], [14, 15], [16], [17, 18, 19, 20])
OUTPUTS = (5, 8, 3, 6)
# Places, and blocks more than enough for them.
BATCH_SIZE, NUM_BLOCKS = 3, 64
# Of the pipeline, in which each stage has a batch of two.
NUM_STAGES = 2
PIPELINED = Jobs((*PROMPTS, [21, 22], [23, 24, 25]), (*OUTPUTS, 4, 2))


@dataclass(frozen=True, slots=True)
class Strategy:
    """A way to form batches, and what the texts say of it: rows, ms a step, requests/s."""

    title: str
    batching: str
    attention: str
    said: tuple[float, float, float]


STATIC = Strategy("Static batches", "static", "padded", (3.0, 80, 4.2))
CONTINUOUS = Strategy("Continuous batching", "continuous", "padded", (2.8, 75, 5.6))
SELECTIVE = Strategy("Selective batching", "continuous", "grouped", (2.8, 60, 7.0))


class Example(BaseSettings):
    """Run four jobs in batches of three: static, continuous and selective, step by step.

    The jobs are in the queue, in order, before a worker comes, which has three places; what is
    printed is what the scheduler recorded. The demo model computes them.
    """

    model_config = SettingsConfigDict(
        env_prefix="STEPSERVE_BENCH_", env_ignore_empty=True, frozen=True
    )

    pipeline: bool = Field(
        False,
        description="instead, six jobs through a pipeline of two stages: each stage with its "
        "batch, new jobs entering at the first, finished ones leaving at the last",
    )
    out: str = Field("", description="also draw who is in each step into this directory, as SVG")

    def run(self) -> int:
        """Run; the last line printed is a JSON object with the figures."""
        console = Console(width=None if sys.stdout.isatty() else 100, highlight=False)
        return self._pipelined(console) if self.pipeline else self._compared(console)

    def _pipelined(self, console: Console) -> int:
        with queue_without_workers() as (redis_url, target):
            played = play_pipeline(redis_url, target)
        numbers = {name: i + 1 for i, name in enumerate(played.names)}
        told = Pipeline(played.steps, numbers, NUM_STAGES)
        console.print(f"[bold]A pipeline of {NUM_STAGES} stages, each with its batch[/bold]")
        for text in told.tell():
            console.print(text)
        console.print()
        print_stages(console, told)
        if self.out:
            write_stages(Path(self.out) / "pipeline.svg", told)
        print(json.dumps({"Pipeline": played.figures()}))
        return 0

    def _compared(self, console: Console) -> int:
        found: dict[str, dict[str, float]] = {}
        with queue_without_workers() as (redis_url, target):
            for strategy in (STATIC, CONTINUOUS, SELECTIVE):
                played = play(redis_url, target, strategy)
                found[strategy.title] = played.figures()
                self._show(console, strategy, played)
        console.print(comparison(found))
        print(json.dumps(found))
        return 0

    def _show(self, console: Console, strategy: Strategy, played: Played) -> None:
        console.print(f"\n[bold]{strategy.title}[/bold]")
        jobs = {name: Told(i + 1, OUTPUTS[i]) for i, name in enumerate(played.names)}
        for text in Narrator(jobs, strategy.attention == "grouped").tell(played.steps):
            console.print(text)
        console.print()
        print_timeline(console, played.tracks(), played.steps)
        if self.out:
            path = Path(self.out) / f"{strategy.title.lower().replace(' ', '-')}.svg"
            write_svg(path, played.tracks(), played.steps)


@dataclass(frozen=True, slots=True)
class Played:
    """One run: the jobs in order, and the steps that they were in."""

    job_ids: Sequence[str]
    steps: list[RecordedStep]

    @property
    def names(self) -> list[tuple[str, int]]:
        return [(job_id, 0) for job_id in self.job_ids]

    def tracks(self) -> list[Track]:
        return [Track(name, f"job {i + 1}", 0.0) for i, name in enumerate(self.names)]

    def members(self) -> list[set[int]]:
        """Return the numbers of the jobs in each step, counted from 1."""
        return [
            {self.job_ids.index(job_id) + 1 for job_id, _ in step.row_tokens} for step in self.steps
        ]

    def figures(self) -> dict[str, float]:
        """Return rows and milliseconds a step, and requests/s from the first step on."""
        first, last = self.steps[0], self.steps[-1]
        span_s = last.sent_s + last.duration_us / 1e6 - first.sent_s
        return {
            "num_steps": len(self.steps),
            "rows_per_step": sum(step.num_rows for step in self.steps) / len(self.steps),
            "step_ms_p50": percentile([step.duration_us / 1e3 for step in self.steps], 0.5),
            "requests_per_s": len(self.job_ids) / span_s,
        }


@contextmanager
def queue_without_workers() -> Iterator[tuple[str, str]]:
    """Yield a Redis's URL and the HOST:PORT of a scheduler that only takes jobs into it."""
    with (
        tempfile.TemporaryDirectory(prefix="stepserve-example-") as directory,
        EmbeddedRedis.start(Path(directory)) as redis,
        Supervisor(threading.Event()) as supervisor,
    ):
        flags = [f"--model={MODEL_DIR}", "--port=0", "--roles=api"]
        variables = {"STEPSERVE_REDIS_URL": redis.url}
        api = supervisor.start(Service("api", ["scheduler_svc", *flags], variables))
        yield redis.url, api.wait_ready()["grpc"]


def play(redis_url: str, target: str, strategy: Strategy) -> Played:
    """Submit the four jobs, then start a service that finds them; return when they have ended.

    One step is in flight at a time, as in the texts.
    """
    flags = {
        "batching": strategy.batching,
        "attention": strategy.attention,
        "max_batch_size": BATCH_SIZE,
    }
    played = _play(redis_url, target, Jobs(PROMPTS, OUTPUTS), flags)
    return Played(played.job_ids, worked(played.steps))


def play_pipeline(redis_url: str, target: str) -> Played:
    """Do the same with six jobs and a pipeline, each stage of which has a step in flight.

    Steps in which nobody was are among them, but for those before the first and after the last.
    """
    flags = {"pipeline_stages": NUM_STAGES, "max_batch_size": 2 * NUM_STAGES}
    played = _play(redis_url, target, PIPELINED, flags)
    rows = [i for i, step in enumerate(played.steps) if step.num_rows]
    return Played(played.job_ids, played.steps[rows[0] : rows[-1] + 1])


def _play(redis_url: str, target: str, jobs: Jobs, flags: Mapping[str, object]) -> Played:
    with Client(target) as client, tempfile.TemporaryDirectory() as record_dir:
        job_ids = [
            client.submit(
                prompt_token_ids=prompt,
                sampling=SamplingParams(max_tokens=output, temperature=0.0, ignore_eos=True),
            )
            for prompt, output in zip(jobs.prompts, jobs.outputs, strict=True)
        ]
        own = {
            "num_blocks": NUM_BLOCKS,
            # The lane claims the next job while others run, so that it is at hand when one of
            # them leaves. Were a step planned ahead, it would be planned by then.
            "max_steps_in_flight": 1,
            "num_threads": 1,
        }
        with serve(MODEL_DIR, redis_url=redis_url, record_dir=record_dir, **own, **flags):
            for job_id in job_ids:
                for _ in client.attach(job_id):
                    pass
        return Played(job_ids, read_steps(Path(record_dir)))


def comparison(found: Mapping[str, Mapping[str, float]]) -> Table:
    """Return the figures beside those that the texts print for their simulation."""
    table = Table(title="\nmeasured here, and in brackets what the texts say of their simulation")
    for heading in ("", "steps", "rows a step", "ms a step", "requests/s"):
        table.add_column(heading, justify="right" if heading else "left")
    for strategy in (STATIC, CONTINUOUS, SELECTIVE):
        figures, said = found[strategy.title], strategy.said
        table.add_row(
            strategy.title,
            f"{figures['num_steps']}",
            f"{figures['rows_per_step']:.1f} ({said[0]})",
            f"{figures['step_ms_p50']:.1f} ({said[1]:g})",
            f"{figures['requests_per_s']:.1f} ({said[2]})",
        )
    return table
