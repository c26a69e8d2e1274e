"""What every policy's experiment needs: jobs from seeds, loads, and how they are told."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from itertools import takewhile

from rich.console import Console

from stepserve import AsyncClient
from stepserve_bench.measure.service_run import Bed, Load, ServiceRun
from stepserve_bench.workloads.arrivals import Poisson
from stepserve_bench.workloads.burst import burst
from stepserve_bench.workloads.jobs import BenchJob, random_jobs
from stepserve_bench.workloads.lengths import ShareGPTLengths
from stepserve_bench.workloads.offer import offer
from stepserve_bench.workloads.outcome import Arrival, Outcome

# A step's budget that no prompt of these lengths exceeds, nor many together.
WHOLE_PROMPTS = 8192


@dataclass(frozen=True, slots=True)
class Trial:
    """The bed, the lengths' scale, the seed of everything, and where progress is told."""

    bed: Bed
    attention: str
    scale: float
    seed: int
    console: Console

    def jobs(self, num_jobs: int, purpose: str) -> list[BenchJob]:
        """Return ShareGPT-like jobs, others for each purpose."""
        lengths = ShareGPTLengths(self.bed.max_context, self.scale)
        chance = random.Random(f"{self.seed} {purpose}")
        return random_jobs(num_jobs, self.bed.vocab_size, lengths, chance)

    def poisson(self, rate: float, duration_s: float, purpose: str) -> list[Arrival]:
        """Return jobs that arrive independently, ``rate`` a second on average."""
        chance = random.Random(f"{self.seed} {purpose} times")
        times_s = list(takewhile(lambda at_s: at_s <= duration_s, Poisson(rate).times_s(chance)))
        jobs = self.jobs(len(times_s), purpose)
        return [Arrival(at_s, job) for at_s, job in zip(times_s, jobs, strict=True)]

    def capacity(self, num_jobs: int, **flags: object) -> float:
        """Return how many of these jobs a second the service ends when it is never idle."""
        return self._capacity(self.jobs(num_jobs, "capacity"), flags)

    def capacity_of_equal(self, num_jobs: int, num_tokens: int) -> float:
        """Return it of jobs whose outputs have all so many tokens."""
        jobs = self.jobs(num_jobs, "capacity")
        return self._capacity([replace(job, max_tokens=num_tokens) for job in jobs], {})

    def _capacity(self, jobs: list[BenchJob], flags: dict[str, object]) -> float:
        num_gates = 1 if flags.get("batching") == "static" else self.bed.batch_size
        self.console.print(f"capacity with {_text(flags)} …", highlight=False)
        run = self._measure(lambda client: burst(client, jobs, num_gates), flags)
        return capacity(run)

    def offered(
        self,
        arrivals: list[Arrival],
        is_awaited: Callable[[Arrival], bool] = lambda _: True,
        timeout_s: float | None = None,
        **flags: object,
    ) -> ServiceRun:
        """Return what became of these arrivals, at most ``timeout_s`` after the first is due."""
        what = f"{_text(flags)}: {len(arrivals)} jobs in {arrivals[-1].at_s:.0f} s"
        ended = Counting(self.console, what, sum(map(is_awaited, arrivals)), is_awaited)

        def load(client: AsyncClient) -> Awaitable[list[Outcome]]:
            return offer(client, arrivals, ended, is_awaited, timeout_s)

        return self._measure(load, flags)

    def _measure(self, load: Load, flags: dict[str, object]) -> ServiceRun:
        own = {"attention": self.attention, "max_step_tokens": WHOLE_PROMPTS}
        return self.bed.measure(load, **{**own, **flags})  # type: ignore[arg-type]


def capacity(run: ServiceRun) -> float:
    """Return requests/s while jobs waited.

    Counted in output tokens until the last job begins, over the mean output: what follows is
    a batch that empties, and says nothing about a service under load.
    """
    start_s = min(outcome.times.submitted_s for outcome in run.outcomes)
    last_s = max(outcome.times.token_times_s[0] for outcome in run.outcomes)
    outputs = [outcome.times.token_times_s for outcome in run.outcomes]
    num_tokens = sum(time_s <= last_s for output in outputs for time_s in output)
    return num_tokens / (last_s - start_s) / (sum(map(len, outputs)) / len(outputs))


class Counting:
    """Says how many jobs have ended, ten times in a run."""

    def __init__(
        self, console: Console, what: str, total: int, counts: Callable[[Arrival], bool]
    ) -> None:
        self._console, self._what, self._total, self._counts = console, what, total, counts
        self._num_ended = 0
        console.print(f"{what} …", highlight=False)

    def __call__(self, outcome: Outcome) -> None:
        if not self._counts(outcome.arrival):
            return
        self._num_ended += 1
        if self._num_ended % max(1, self._total // 10) == 0:
            start_s = outcome.times.submitted_s - outcome.arrival.at_s
            elapsed_s = time.time() - start_s
            text = f"  {self._num_ended} of {self._total} have ended, {elapsed_s:.0f} s"
            self._console.print(text, highlight=False)


def _text(flags: dict[str, object]) -> str:
    return ", ".join(f"{name.replace('_', '-')}={value}" for name, value in flags.items())
