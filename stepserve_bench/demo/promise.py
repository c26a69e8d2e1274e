"""The demonstration's promise: a worker is killed in mid-stream, and the texts are the same."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import psutil
from rich.console import Console

from stepserve import AsyncClient, SamplingParams
from stepserve.local.serving import serve
from stepserve.protocol.errors import StepserveError
from stepserve_bench.demo.storyteller import MODEL_DIR

# Lanes share the stories out, and each worker has places for all: who is left takes them all.
NUM_WORKERS, NUM_PLACES = 2, 6
PROMPTS = (
    "Once upon a time, an old bear named",
    "One sunny morning, a little fox named",
    "Long ago, a gentle owl named",
    "There once was a brave mouse named",
    "This is the story of Ivy, a clever",
    "Once upon a time, a sleepy turtle named",
)
MAX_TOKENS, SEED = 300, 7
# Every story has so many tokens when the worker is killed.
NUM_BEFORE = 12
# A pause as long as this is what a step takes, on a busy machine.
NOTICED_S = 0.2


@dataclass(slots=True)
class Story:
    """One stream, and when its tokens came; times are seconds of the monotonic clock."""

    prompt: str
    text: str = ""
    num_tokens: int = 0
    times_s: list[float] = field(default_factory=list)
    has_ended: bool = False

    def pause_s(self, from_s: float) -> float:
        """Return the longest time without a token that ended after ``from_s``."""
        first = sum(time_s <= from_s for time_s in self.times_s)
        times_s = self.times_s[max(0, first - 1) :]
        return max((b - a for a, b in itertools.pairwise(times_s)), default=0.0)


def promise(console: Console) -> bool:
    """Tell stories twice, once with a kill; print the pause. Return whether texts were equal."""
    console.print(f"\n[bold]and if a worker is killed?[/bold] starting {NUM_WORKERS} workers …")
    flags: dict[str, Any] = {
        "model_name": "storyteller",
        "workers": NUM_WORKERS,
        "num_threads": 1,
        "max_batch_size": NUM_PLACES,
        "num_blocks": 96,
    }
    with serve(MODEL_DIR, **flags) as served:
        return asyncio.run(_told_twice(served.target, served.process.pid, console))


async def _told_twice(target: str, pid: int, console: Console) -> bool:
    async with AsyncClient(target) as client:
        before = await _tell(client)
        stories = [Story(prompt) for prompt in PROMPTS]
        telling = asyncio.create_task(_tell(client, stories))
        while any(story.num_tokens < NUM_BEFORE for story in stories):
            if telling.done():
                break
            await asyncio.sleep(0.002)
        victim = _workers(pid)[0]
        killed_s = time.monotonic()
        os.kill(victim, signal.SIGKILL)
        running = [story for story in stories if not story.has_ended]
        console.print(
            f"kill -9 {victim}: a worker is gone while {len(running)} stories are being told"
        )
        after = await telling
    return _report(console, before, after, killed_s)


async def _tell(client: AsyncClient, stories: Sequence[Story] = ()) -> list[Story]:
    """Tell all stories at once, to their ends."""
    told = list(stories) or [Story(prompt) for prompt in PROMPTS]
    async with asyncio.TaskGroup() as group:
        for story in told:
            group.create_task(_follow(client, story))
    return told


async def _follow(client: AsyncClient, story: Story) -> None:
    sampling = SamplingParams(max_tokens=MAX_TOKENS, temperature=0.8, seed=SEED, ignore_eos=True)
    job_id = await client.submit(prompt=story.prompt, sampling=sampling)
    async for event in client.attach(job_id):
        if event.token_ids:
            story.times_s.append(time.monotonic())
            story.num_tokens += len(event.token_ids)
        story.text += event.text
    story.has_ended = True


def _workers(pid: int) -> list[int]:
    """The process ids of a service's workers. Raises StepserveError where there are none."""
    below = psutil.Process(pid).children(recursive=True)
    found = [process.pid for process in below if "worker_svc" in process.cmdline()]
    if not found:
        raise StepserveError("no worker was found to be killed")
    return found


def _report(
    console: Console, before: Sequence[Story], after: Sequence[Story], killed_s: float
) -> bool:
    pauses_s = sorted(story.pause_s(killed_s) for story in after)
    noticed = [pause_s for pause_s in pauses_s if pause_s > NOTICED_S]
    same = sum(a.text == b.text for a, b in zip(before, after, strict=True))
    console.print(
        f"{len(noticed)} of them paused, for {pauses_s[-1]:.1f} s at most; "
        f"[bold]{same} of {len(after)} texts are what they were without it[/bold]"
    )
    return same == len(after)
