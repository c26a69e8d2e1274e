"""When a stage computed which step, as lines of JSON: how busy it was, and a picture of it.

    {"step": 7, "begin_us": 1200, "end_us": 1900, "rows": 8, "tokens": 8}

Times are those of the machine's monotonic clock, the same for all processes on it.
"""

from __future__ import annotations

import json
import time
from collections import deque
from pathlib import Path
from typing import Protocol

from worker_svc.core.residents import StepPlan
from worker_svc.group.place import Place
from worker_svc.step.timer import Timer


class Spans(Protocol):
    """Where steps' times are written."""

    def add(self, plan: StepPlan, timer: Timer) -> None:
        """A step has been launched; ``timer`` runs from when its input was there."""


class Nowhere:
    """Nobody asked for them."""

    def add(self, _plan: StepPlan, _timer: Timer, /) -> None:
        return


NOWHERE = Nowhere()


class SpanFile:
    """One rank's file, ``stage-0-rank-0.jsonl`` in a directory; a new life begins it anew.

    A step's end is when it is seen to have been computed: on a GPU when the next one is launched
    at the latest. A write that fails ends the worker: it was asked for.
    """

    def __init__(self, directory: Path, place: Place) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        part = place.part
        path = directory / f"stage-{part.stage}-rank-{part.rank}.jsonl"
        self._file = path.open("w", encoding="utf-8", buffering=1)
        self._open: deque[tuple[StepPlan, Timer]] = deque()

    def add(self, plan: StepPlan, timer: Timer) -> None:
        if plan.command.step == 0:  # of the warm-up
            return
        self._open.append((plan, timer))
        while self._open and self._open[0][1].is_done():
            self._write(*self._open.popleft())

    def _write(self, plan: StepPlan, timer: Timer) -> None:
        duration_us, end_us = timer.wait(), time.monotonic_ns() // 1000
        span = {
            "step": plan.command.step,
            "begin_us": end_us - duration_us,
            "end_us": end_us,
            "rows": len(plan.rows),
            "tokens": sum(row.num_tokens for row in plan.rows),
        }
        self._file.write(json.dumps(span) + "\n")
