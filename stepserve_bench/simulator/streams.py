"""What is to be simulated: streams of jobs, a stream for each kind of client."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from stepserve_bench.simulator.job import Job
from stepserve_bench.workloads.arrivals import AllAtOnce, Arrivals, ClosedLoop
from stepserve_bench.workloads.lengths import JobLengths, ShareGPTLengths


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """Jobs of one kind.

    ``urgent_share`` of them have ``urgent_priority``, the others priority 0. ``max_tokens``
    above 0 is what every job asks for at most, whatever its output; 0 asks for exactly its
    output, as the benchmarks do. A prompt's first ``prefix_tokens`` are the stream's own.
    """

    arrivals: Arrivals = AllAtOnce()  # noqa: RUF009
    lengths: JobLengths = ShareGPTLengths()  # noqa: RUF009
    num_jobs: int = 1_000
    until_s: float = float("inf")
    tenant: str = ""
    urgent_share: float = 0.0
    urgent_priority: int = 0
    max_tokens: int = 0
    prefix_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Workload:
    """Streams that come side by side; the same jobs again for the same seed."""

    streams: tuple[Stream, ...]
    seed: int = 0

    def sources(self) -> list[Source]:
        """Return each stream's jobs, to be drawn one by one."""
        return [Source(group, stream, self.seed) for group, stream in enumerate(self.streams)]

    @property
    def num_jobs(self) -> int:
        """Jobs at most: a stream may end earlier by its time."""
        return sum(stream.num_jobs for stream in self.streams)


class Source:
    """Draws the jobs of one stream, in the order of their arrival."""

    def __init__(self, group: int, stream: Stream, seed: int) -> None:
        self.stream = stream
        self._group = group
        self._chance = random.Random(f"{seed} {group} jobs")
        self._times_s: Iterator[float] = stream.arrivals.times_s(
            random.Random(f"{seed} {group} times")
        )
        self._num_left = stream.num_jobs

    @property
    def is_closed_loop(self) -> bool:
        return isinstance(self.stream.arrivals, ClosedLoop)

    def next_time_s(self) -> float | None:
        """Return when the next job comes; None where no more do."""
        if self._num_left == 0:
            return None
        time_s = next(self._times_s, None)
        return None if time_s is None or time_s > self.stream.until_s else time_s

    def draw(self, number: int, now_s: float) -> Job | None:
        """Return the next job, arriving now; None where no more are to come."""
        if self._num_left == 0 or now_s > self.stream.until_s:
            return None
        self._num_left -= 1
        stream, chance = self.stream, self._chance
        prompt, output = stream.lengths.draw(chance)
        job = Job(number, now_s, prompt + stream.prefix_tokens, output)
        job.group = self._group
        job.tenant = stream.tenant
        job.prefix = stream.prefix_tokens
        if stream.max_tokens:
            job.max_tokens = max(output, stream.max_tokens)
        if stream.urgent_share and chance.random() < stream.urgent_share:
            job.priority = stream.urgent_priority
        return job
