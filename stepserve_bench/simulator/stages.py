"""The stages of one worker in virtual time: when each computes which step."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from stepserve_bench.simulator.cost import StepCosts, StepShape


class Link(NamedTuple):
    """Microseconds from a stage to the next: of every step, and of each of its positions."""

    step_us: float = 20.0
    position_us: float = 0.05

    def passing_s(self, num_positions: int) -> float:
        return (self.step_us + self.position_us * num_positions) * 1e-6


class Stages:
    """Takes steps in their order; each passes from stage to stage.

    A stage computes one step at a time. The first begins a step once the last one has chosen
    the tokens of the step ``num_stages`` before, whose sequences may be in it again.
    """

    def __init__(self, costs: Sequence[StepCosts], link: Link) -> None:
        num_stages = len(costs)
        self._costs = costs
        self._link = link if num_stages > 1 else Link(0.0, 0.0)
        self._free_s = [0.0] * num_stages
        self._chosen_s = deque([-math.inf] * num_stages, maxlen=num_stages)
        self.uses = [StageUse() for _ in range(num_stages)]

    def compute(self, there_s: float, shape: StepShape) -> tuple[float, float]:
        """Take a step whose command is there at ``there_s``.

        Returns the microseconds that the stages compute it, without its waits, and when the last
        one is through.
        """
        if not shape.num_rows:
            # Nothing to compute: it only keeps its place among the others.
            self._chosen_s.append(max(there_s, self._chosen_s[-1]))
            return 0.0, self._chosen_s[-1]
        passing_s = self._link.passing_s(shape.num_positions)
        at_s = max(there_s, self._chosen_s[0] + self._link.passing_s(0))
        total_us = end_s = 0.0
        for stage, costs in enumerate(self._costs):
            begin_s = max(at_s, self._free_s[stage])
            duration_us = costs.duration_us(shape)
            end_s = self._free_s[stage] = begin_s + duration_us * 1e-6
            self.uses[stage].add(begin_s, end_s)
            total_us += duration_us
            at_s = end_s + passing_s
        self._chosen_s.append(end_s)
        return total_us, end_s


class StageUse:
    """How long a stage has computed; the latest of its times may lie ahead of now."""

    def __init__(self) -> None:
        self._total_s = 0.0
        self._latest: deque[tuple[float, float]] = deque()

    def add(self, begin_s: float, end_s: float) -> None:
        """It computes from then to then; times come in their order."""
        self._total_s += end_s - begin_s
        self._latest.append((begin_s, end_s))

    def until(self, now_s: float) -> float:
        """Return the seconds that it has computed by ``now_s``, which never goes back."""
        latest = self._latest
        while latest and latest[0][1] <= now_s:
            latest.popleft()
        return self._total_s - sum(end_s - max(now_s, begin_s) for begin_s, end_s in latest)


class Window:
    """What all stages did between two moments: from the start on, until those are known."""

    def __init__(self, uses: list[StageUse]) -> None:
        self._uses = uses
        self._begin = self._end = _Moment(0.0, 0, [0.0] * len(uses))

    def begin(self, now_s: float, num_ended: int) -> None:
        """It begins now, when so many jobs have ended."""
        self._begin = self._end = self._at(now_s, num_ended)

    def end(self, now_s: float, num_ended: int) -> None:
        """It ends now, unless it has ended."""
        if self._end is self._begin:
            self._end = self._at(now_s, num_ended)

    @property
    def requests_per_s(self) -> float:
        """Jobs that ended a second; NaN of no time."""
        num_ended = self._end.num_ended - self._begin.num_ended
        return num_ended / self._span_s if self._span_s else math.nan

    @property
    def idle_shares(self) -> list[float]:
        """By stage, the share of the time in which it computed nothing; NaN of no time."""
        pairs = zip(self._begin.computed_s, self._end.computed_s, strict=True)
        if not self._span_s:
            return [math.nan for _ in pairs]
        return [1.0 - (end - begin) / self._span_s for begin, end in pairs]

    @property
    def _span_s(self) -> float:
        return self._end.now_s - self._begin.now_s

    def _at(self, now_s: float, num_ended: int) -> _Moment:
        return _Moment(now_s, num_ended, [use.until(now_s) for use in self._uses])


class _Moment(NamedTuple):
    """By then so many jobs had ended, and so long had each stage computed."""

    now_s: float
    num_ended: int
    computed_s: list[float]
