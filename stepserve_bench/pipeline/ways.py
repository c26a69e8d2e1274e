"""Ways to keep a pipeline busy, each a setting of the same service."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stepserve_bench.measure.service_run import ServiceRun
from stepserve_bench.pipeline.spans import Span, Stages, idle_shares

# The first and last jobs' ends between which a run is steady.
STEADY = (0.1, 0.9)


@dataclass(frozen=True, slots=True)
class Way:
    """Its name, what it is in words, and what is set for it."""

    name: str
    about: str
    batching: str = "continuous"
    is_pipeline: bool = True
    is_one_batch: bool = False

    def num_places(self, num_stages: int, batch_size: int) -> int:
        """Return how many sequences run at once: as many in each batch in flight, in each way."""
        return batch_size * (1 if self.is_one_batch else num_stages)

    def flags(self, num_stages: int, batch_size: int) -> dict[str, Any]:
        """Return the flags of ``stepserve up``."""
        own: dict[str, Any] = {
            "batching": self.batching,
            "max_batch_size": self.num_places(num_stages, batch_size),
        }
        if self.is_pipeline:
            own["pipeline_stages"] = num_stages
        if self.is_one_batch:
            own["target_batch_size"] = batch_size
        return own


ONE_STAGE = Way("one-stage", "one stage, no pipeline", is_pipeline=False, is_one_batch=True)
STATIC = Way("static", "static batches: each enters and leaves as one", batching="static")
ONE_BATCH = Way("one-batch", "one dynamic batch in flight", is_one_batch=True)
FILLED = Way("filled", "a dynamic batch in flight for each stage")
WAYS = (ONE_STAGE, STATIC, ONE_BATCH, FILLED)


@dataclass(frozen=True)
class Measured:
    """One way's run, and what its stages did."""

    way: Way
    run: ServiceRun
    stages: Stages

    @property
    def steady_s(self) -> tuple[float, float]:
        """When a tenth and nine tenths of the jobs had ended (seconds since the epoch).

        Where they are too few for that, from their submission to the last one's end.
        """
        first, last = self._steady
        if first == last:
            return min(job.times.submitted_s for job in self.run.ended), self._ends_s[-1]
        return self._ends_s[first], self._ends_s[last]

    @property
    def steady_requests_per_s(self) -> float:
        """Jobs that ended a second while the run was steady."""
        first, last = self._steady
        begin_s, end_s = self.steady_s
        return ((last - first) or len(self._ends_s)) / (end_s - begin_s)

    @property
    def idle_shares(self) -> list[float]:
        """By stage, the share of the steady time in which it computed nothing."""
        return idle_shares(self.stages, *self.steady_s)

    def figures(self, batch_size: int) -> dict[str, Any]:
        idle = self.idle_shares
        return {
            **self.run.figures(batch_size),
            "steady_requests_per_s": self.steady_requests_per_s,
            "idle_shares": idle,
            "bubble_share": sum(idle) / len(idle),
        }

    @property
    def _steady(self) -> tuple[int, int]:
        """The jobs, counted from 0 in the order of their ends, from whose end to whose it is."""
        first, last = (int(len(self._ends_s) * share) for share in STEADY)
        return first, last

    @property
    def _ends_s(self) -> list[float]:
        return sorted(outcome.times.token_times_s[-1] for outcome in self.run.ended)


def lone_stage(run: ServiceRun) -> Stages:
    """The one stage of a worker that is no pipeline, by its reports: when each step was through.

    Its steps follow one another, so that a step begins when the one before has ended.
    """
    spans: list[Span] = []
    free_s = 0.0
    for step in run.steps:
        if step.num_rows:
            begin_s = max(step.sent_s, free_s)
            free_s = begin_s + step.duration_us / 1e6
            spans.append(Span(step.number, begin_s, free_s, step.num_rows))
    return [spans]


def compared(found: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Return how many times the requests/s of each other way those of ``FILLED`` are."""
    rate = found[FILLED.name]["steady_requests_per_s"]
    return {
        name: rate / figures["steady_requests_per_s"]
        for name, figures in found.items()
        if name != FILLED.name
    }
