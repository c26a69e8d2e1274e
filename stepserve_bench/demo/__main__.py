"""``make demo``: a dozen stories on this machine, and what happened step by step.

Starts Redis, a scheduler and a worker as separate processes on the demo model, submits
prompts that arrive over time, streams their text, then shows who was in which step. In the
end a worker is killed in mid-stream, and the texts are compared.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from stepserve import AsyncClient, SamplingParams
from stepserve.local.serving import Served, serve
from stepserve.protocol.errors import StepserveError
from stepserve_bench.demo.promise import promise
from stepserve_bench.demo.storyteller import MODEL_DIR
from stepserve_bench.demo.timeline import Track, print_timeline, write_svg
from stepserve_bench.measure.recorded import RecordedStep, read_steps

# Few enough rows and tokens a step that jobs wait and long prompts come in chunks.
NUM_BLOCKS, MAX_BATCH_SIZE, MAX_STEP_TOKENS = 96, 6, 24
ARRIVALS_PER_S = 8.0
MAX_TOKENS, SEED = 200, 1

PROMPTS = (
    "Once upon a time,",
    "One winter evening, an old owl named Hugo",
    "Long ago, a gentle bear named Otto lived in a hollow log. But Otto was lonely and",
    "There once was a brave fox named",
    "This is the story of Theo, a very small otter who lived in a burrow full of books. "
    "His favourite thing was a golden key. One day, Theo could not find",
    "Long ago, a shy",
    "One sunny morning, a little hedgehog named Luna went for a walk by the river. "
    "More than anything, Luna wanted to",
    "Once",
    "There once was a cheerful duck named Ivy who lived in a boat on the lake. One night, "
    "there was thunder all around the house.",
    "This is the story of Poppy, a clever",
    "Once upon a time, a sleepy turtle named Felix lived behind the blue hills. "
    "It was the birthday of",
    "Once upon a time, there was a curious mouse named Clara. One day, Clara could not find "
    "her lantern.",
)


@dataclass(slots=True)
class Telling:
    """One job as the demo sees it; times are seconds since the epoch."""

    label: str
    prompt: str
    arrival_s: float
    job_id: str = ""
    submitted_s: float = 0.0
    first_s: float = 0.0
    ended_s: float = 0.0
    num_tokens: int = 0
    text: str = ""
    finish_reason: str = ""


def tellings(seed: int) -> list[Telling]:
    """Return a dozen jobs that arrive over a second or two, in an order of their own."""
    chance = random.Random(seed)
    arrival_s, jobs = 0.0, []
    for i, prompt in enumerate(PROMPTS):
        jobs.append(Telling(f"{i + 1:>2} {prompt[:18]}", prompt, arrival_s))
        arrival_s += chance.expovariate(ARRIVALS_PER_S)
    return jobs


async def tell(client: AsyncClient, job: Telling, start_s: float) -> None:
    """Submit the job when its time has come, and follow it to its end."""
    await asyncio.sleep(max(0.0, start_s + job.arrival_s - time.time()))
    job.submitted_s = time.time()
    sampling = SamplingParams(max_tokens=MAX_TOKENS, temperature=0.8, seed=SEED)
    job.job_id = await client.submit(prompt=job.prompt, sampling=sampling)
    async for event in client.attach(job.job_id):
        if event.token_ids and not job.first_s:
            job.first_s = time.time()
        job.num_tokens += len(event.token_ids)
        job.text += event.text
        job.finish_reason = event.finish_reason or job.finish_reason
    job.ended_s = time.time()


def live_view(jobs: Sequence[Telling]) -> Group:
    """Return the stories as they stand: the end of each text on one line."""
    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(width=22, no_wrap=True)
    table.add_column(width=5, justify="right")
    table.add_column(ratio=1, no_wrap=True)
    for job in jobs:
        style = "green" if job.ended_s else "white" if job.first_s else "bright_black"
        state = job.text.replace("\n", " ")[-160:] if job.first_s else "waits" * bool(job.job_id)
        table.add_row(job.label, str(job.num_tokens or ""), Text(state, style, overflow="ellipsis"))
    return Group(table)


async def watch(jobs: Sequence[Telling], console: Console) -> None:
    """Show the texts grow; where the output is no terminal, print each as it ends."""
    if not console.is_terminal:
        shown: set[str] = set()
        while len(shown) < len(jobs):
            for job in jobs:
                if job.ended_s and job.label not in shown:
                    shown.add(job.label)
                    console.print(f"{job.label}: {job.prompt}{job.text}", highlight=False)
            await asyncio.sleep(0.05)
        return
    with Live(live_view(jobs), console=console, refresh_per_second=12) as live:
        while not all(job.ended_s for job in jobs):
            live.update(live_view(jobs))
            await asyncio.sleep(0.08)
        live.update(live_view(jobs))


async def run(served: Served, jobs: Sequence[Telling], console: Console) -> None:
    """Tell all stories; raises where one fails."""
    async with AsyncClient(served.target) as client:
        start_s = time.time()
        async with asyncio.TaskGroup() as group:
            for job in jobs:
                group.create_task(tell(client, job, start_s))
            group.create_task(watch(jobs, console))


def figures(jobs: Sequence[Telling], steps: Sequence[RecordedStep]) -> Table:
    """Return throughput, latency and occupancy as a table."""
    span_s = max(job.ended_s for job in jobs) - min(job.submitted_s for job in jobs)
    latencies = [job.ended_s - job.submitted_s for job in jobs]
    firsts = [job.first_s - job.submitted_s for job in jobs]
    num_tokens = sum(job.num_tokens for job in jobs)
    rows = [step.num_rows for step in steps if step.num_rows]
    table = Table.grid(padding=(0, 2))
    for name, value in (
        ("jobs", f"{len(jobs)}, all ended: {', '.join(sorted({j.finish_reason for j in jobs}))}"),
        (
            "throughput",
            f"{len(jobs) / span_s:.1f} jobs/s, {num_tokens / span_s:.0f} output tokens/s",
        ),
        ("latency", f"mean {statistics.mean(latencies):.2f} s, longest {max(latencies):.2f} s"),
        ("time to first token", f"mean {statistics.mean(firsts) * 1000:.0f} ms"),
        (
            "batch occupancy",
            f"{statistics.mean(rows):.1f} of {MAX_BATCH_SIZE} rows a step, {len(steps)} steps",
        ),
        ("step time", f"median {statistics.median(s.duration_us for s in steps) / 1000:.1f} ms"),
    ):
        table.add_row(f"[bold]{name}[/bold]", value)
    return table


def blocks_proof(steps: Sequence[RecordedStep]) -> tuple[bool, str]:
    """Return whether all blocks are free again, and a sentence that says so."""
    reported = [step for step in steps if step.num_free_blocks >= 0]
    last, least = reported[-1].num_free_blocks, min(step.num_free_blocks for step in reported)
    used = NUM_BLOCKS - least
    return last == NUM_BLOCKS, (
        f"{last} of {NUM_BLOCKS} blocks are free after the last step (at most {used} were used)"
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="stepserve_bench.demo.__main__", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo-out"), help="where the SVG goes")
    parser.add_argument("--seed", type=int, default=7, help="of lengths and arrivals")
    arguments = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 120)
    jobs = tellings(arguments.seed)
    with tempfile.TemporaryDirectory(prefix="stepserve-demo-") as scratch:
        console.print("starting Redis, a scheduler and a worker …")
        flags: dict[str, Any] = {
            "model_name": "storyteller",
            "num_blocks": NUM_BLOCKS,
            "max_batch_size": MAX_BATCH_SIZE,
            "max_step_tokens": MAX_STEP_TOKENS,
            "num_threads": 1,
            "record_dir": scratch,
        }
        with serve(MODEL_DIR, **flags) as served:
            console.print(f"ready on {served.target}\n")
            asyncio.run(run(served, jobs, console))
        steps = read_steps(Path(scratch))
    tracks = [Track((job.job_id, 0), job.label, job.submitted_s) for job in jobs]
    console.print("\n[bold]who was in which step[/bold]")
    print_timeline(console, tracks, steps)
    picture = arguments.out / "steps.svg"
    write_svg(picture, tracks, steps)
    console.print(f"the same as a file: {os.path.relpath(picture)}\n")
    console.print(figures(jobs, steps))
    free, sentence = blocks_proof(steps)
    console.print(f"[bold]{'all blocks are free' if free else 'BLOCKS LEAKED'}[/bold]: {sentence}")
    is_kept = promise(console)
    return 0 if free and is_kept and all(job.finish_reason for job in jobs) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except StepserveError as error:
        sys.exit(f"demo: {error}")
