"""What a process's lanes do, counted turn by turn."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields

from scheduler_svc.core.config import CoreConfig
from scheduler_svc.core.counts import Counts
from scheduler_svc.core.events import (
    Adopted,
    Cancelled,
    Claimed,
    Commit,
    Committed,
    Effect,
    Event,
    Reported,
    Send,
)
from scheduler_svc.core.scheduler import Core
from scheduler_svc.metrics.latencies import Latencies
from scheduler_svc.metrics.outputs import Outputs
from stepserve.metrics.family import Family, counter, gauge, histogram, info
from stepserve.metrics.histogram import Histogram
from stepserve.protocol.job import ClaimedJob
from stepserve.protocol.step import ResidentSequence, StepCommand

_STEP_S = (
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2,
    0.5, 1, 2, 5, 10, 60,
)  # fmt: skip
_STEP_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)

NUM_RECENT_STEPS = 512


class LaneMeter:
    """Observes the turns of one lane. Most of what is told of it is read when it is asked for."""

    def __init__(self, turns: Turns, config: CoreConfig) -> None:
        self._turns = turns
        self._outputs = Outputs(turns.latencies)
        self._reported = config.first_step - 1
        # How long the last steps took, in microseconds.
        self.step_us: deque[int] = deque(maxlen=NUM_RECENT_STEPS)
        self.config = config
        self.core: Core | None = None

    @property
    def counts(self) -> Sequence[Counts]:
        """What the core has done; nothing before its first turn."""
        return [self.core.counts] if self.core else []

    def observe(self, events: Sequence[Event], effects: Sequence[Effect], core: Core, /) -> None:
        """Take note of a turn."""
        self.core = core
        now_s = self._turns.clock()
        # Rows are looked at one by one only where one of them may be an output's last.
        has_ends = False
        for event in events:
            has_ends |= self._take(event, now_s)
        for effect in effects:
            if isinstance(effect, Send):
                self._sent(effect.command, now_s)
            elif has_ends and isinstance(effect, Commit):
                self._outputs.ended(effect.rows, now_s)

    def adopted(
        self, jobs: Iterable[ClaimedJob], kept: Sequence[ResidentSequence], num_reports: int
    ) -> None:
        """The worker was taken over as it is: with ``kept``, and reports that are still to come.

        Before anything that those reports bring is observed.
        """
        now_s = self._turns.clock()
        self._reported -= num_reports
        self._outputs.claimed(jobs, self._turns.redis_epoch_s, now_s)
        self._outputs.adopted(kept, now_s)
        self._turns.took_over(len(kept))

    def _take(self, event: Event, now_s: float) -> bool:
        """Take note of an event; whether outputs may end by it."""
        match event:
            case Reported(report, stops):
                if report.step <= self._reported:  # It came again.
                    return False
                self._reported = report.step
                self._turns.step_s.observe(report.duration_us / 1e6)
                self.step_us.append(report.duration_us)
                self._turns.step_tokens.observe(report.num_positions)
                self._outputs.streamed(report.token_sequence_ids, now_s)
                return bool(report.finished or stops)
            case Adopted(jobs=jobs, kept=kept, num_reports=num_reports):
                self.adopted(jobs, kept, num_reports)
            case Claimed(jobs):
                self._outputs.claimed(jobs, self._turns.redis_epoch_s, now_s)
            case Committed(_, ended):
                self._outputs.gone(ended)
                return False
            case Cancelled(job_ids):
                self._outputs.jobs_gone(job_ids)
                return False
        return True

    def _sent(self, command: StepCommand, now_s: float) -> None:
        if command.admissions:
            self._turns.num_looked_up += sum(len(a.token_ids) for a in command.admissions)
            self._outputs.admitted(command.admissions, now_s)


class Turns:
    """All turns of a process's lanes, those that are over and those that go on.

    ``redis_epoch_s``: what Redis's clock said when ours (``clock``, in seconds) said 0.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.latencies = Latencies()
        self.step_s = Histogram(_STEP_S)
        self.step_tokens = Histogram(_STEP_TOKENS)
        self.num_looked_up = 0
        self.num_takeovers = 0
        self.num_adopted = 0
        self.redis_epoch_s = time.time() - clock()
        # What is over and who goes on, as one value: nothing is told twice or not at all.
        self._kept: tuple[Counts, frozenset[LaneMeter]] = (Counts(), frozenset())

    @contextmanager
    def lane(self, config: CoreConfig) -> Iterator[LaneMeter]:
        """Yield what observes a lane for the time of the block."""
        meter = LaneMeter(self, config)
        past, meters = self._kept
        self._kept = past, meters | {meter}
        try:
            yield meter
        finally:
            past, meters = self._kept
            self._kept = _sum([past, *meter.counts]), meters - {meter}

    @property
    def redis_now_s(self) -> float:
        """Redis's time: seconds since the epoch."""
        return self.redis_epoch_s + self.clock()

    def took_over(self, num_adopted: int) -> None:
        """A worker that another had driven was taken over, with so many of its sequences."""
        self.num_takeovers += 1
        self.num_adopted += num_adopted

    @property
    def num_waiting(self) -> int:
        """Sequences that wait in lanes."""
        return sum(core.num_waiting for _, core in self._lanes())

    def counts(self) -> Counts:
        """What all cores have done."""
        past, meters = self._kept
        return _sum([past, *(counts for meter in meters for counts in meter.counts)])

    def _lanes(self) -> list[tuple[CoreConfig, Core]]:
        """The lanes that have had a turn."""
        return [(meter.config, meter.core) for meter in self._kept[1] if meter.core]

    def families(self) -> Iterable[Family]:
        """Return what lanes do, and what their outputs' latencies are."""
        yield from self._gauges()
        yield from self._counters()
        yield from self.latencies.families()

    def _gauges(self) -> Iterable[Family]:
        lanes = self._lanes()
        total = sum(config.num_blocks for config, _ in lanes)
        used = total - sum(core.num_free_blocks for _, core in lanes)
        yield gauge("lanes", "Workers that this process drives.", len(lanes))
        yield gauge(
            "num_requests_running",
            "Sequences that run at this process's workers.",
            sum(core.num_running for _, core in lanes),
        )
        yield gauge(
            "lane_requests_waiting",
            "Sequences that were claimed and wait in this process's lanes.",
            self.num_waiting,
        )
        yield gauge("kv_blocks_used", "KV blocks that sequences hold.", used)
        yield gauge("kv_blocks", "KV blocks of this process's workers.", total)
        yield gauge("kv_cache_usage_perc", "Share of KV blocks held: 0 to 1.", used / (total or 1))
        if lanes:
            yield cache_info(lanes[0][0].block_size, total)

    def _counters(self) -> Iterable[Family]:
        counts = self.counts()
        yield histogram("step_duration_seconds", "Time that a device took for a step.", self.step_s)
        yield histogram(
            "iteration_tokens_total", "Token positions that a step computed.", self.step_tokens
        )
        yield counter("num_preemptions", "Sequences taken out again.", counts.num_preemptions)
        yield counter(
            "recomputed_tokens",
            "Tokens computed again after a preemption.",
            counts.num_recomputed_tokens,
        )
        yield counter("computed_tokens", "Tokens that steps computed.", counts.num_computed_tokens)
        yield counter(
            "prefix_cache_queries", "Tokens looked up in the prefix cache.", self.num_looked_up
        )
        yield counter(
            "prefix_cache_hits", "Tokens found in the prefix cache.", counts.num_cached_tokens
        )
        yield counter("takeovers", "Workers taken over from another scheduler.", self.num_takeovers)
        yield counter(
            "adopted_sequences",
            "Sequences that went on at a worker that was taken over.",
            self.num_adopted,
        )


def cache_info(block_size: int, num_blocks: int) -> Family:
    """Return what the KV cache is like, as vLLM tells it."""
    told = {"block_size": str(block_size), "num_gpu_blocks": str(num_blocks)}
    return info("cache_config_info", "The KV cache of this process's workers.", told)


def _sum(counts: Sequence[Counts]) -> Counts:
    names = [field.name for field in fields(Counts)]
    return Counts(*(sum(getattr(each, name) for each in counts) for name in names))
