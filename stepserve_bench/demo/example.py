"""``stepserve bench example``: four jobs in batches of three, told step by step.

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
from stepserve_bench.demo.storyteller import MODEL_DIR
from stepserve_bench.measure.measured import percentile
from stepserve_bench.measure.timeline import Line, Step, print_timeline, read_steps, write_svg

PROMPTS = ([11, 12, 13], [14, 15], [16], [17, 18, 19, 20])
OUTPUTS = (5, 8, 3, 6)
# Places, and blocks more than enough for them.
BATCH_SIZE, NUM_BLOCKS = 3, 64


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

    out: str = Field("", description="also draw who is in each step into this directory, as SVG")

    def run(self) -> int:
        """Run; the last line printed is a JSON object with the figures."""
        console = Console(width=None if sys.stdout.isatty() else 100, highlight=False)
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
        print_timeline(console, played.lines(), played.steps)
        if self.out:
            path = Path(self.out) / f"{strategy.title.lower().replace(' ', '-')}.svg"
            write_svg(path, played.lines(), played.steps)


@dataclass(frozen=True, slots=True)
class Played:
    """One run: the jobs in order, and the steps that they were in."""

    job_ids: Sequence[str]
    steps: list[Step]

    @property
    def names(self) -> list[tuple[str, int]]:
        return [(job_id, 0) for job_id in self.job_ids]

    def lines(self) -> list[Line]:
        return [Line(name, f"job {i + 1}", 0.0) for i, name in enumerate(self.names)]

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
    with Client(target) as client, tempfile.TemporaryDirectory() as record_dir:
        job_ids = [
            client.submit(
                prompt_token_ids=prompt,
                sampling=SamplingParams(max_tokens=output, temperature=0.0, ignore_eos=True),
            )
            for prompt, output in zip(PROMPTS, OUTPUTS, strict=True)
        ]
        flags = {
            "batching": strategy.batching,
            "attention": strategy.attention,
            "max_batch_size": BATCH_SIZE,
            "num_blocks": NUM_BLOCKS,
            # The lane claims the fourth job while the three run, so that it is at hand when job
            # 3 leaves. With two steps in flight the next step would be planned by then.
            "max_steps_in_flight": 1,
            "num_threads": 1,
        }
        with serve(MODEL_DIR, redis_url=redis_url, record_dir=record_dir, **flags):
            for job_id in job_ids:
                for _ in client.attach(job_id):
                    pass
        return Played(job_ids, worked(read_steps(Path(record_dir))))


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


if __name__ == "__main__":
    from stepserve.process.command_line import parse_settings

    sys.exit(parse_settings(Example, "stepserve_bench.demo.example", sys.argv[1:]).run())
