"""When each stage computed which step, as the worker's processes wrote it down."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Span:
    """A stage computed a step from then to then, in seconds of one clock."""

    step: int
    begin_s: float
    end_s: float
    num_rows: int


Stages = Sequence[Sequence[Span]]  # By stage, in the order of the steps.


def read_stages(directory: Path, monotonic_zero_s: float) -> Stages:
    """Return the steps that had rows, of every stage of the one worker that wrote there.

    ``monotonic_zero_s`` is when the machine's monotonic clock was 0, by the clock that is wanted.
    A line that its writer was killed at is left out.
    """
    paths = sorted(directory.rglob("stage-*-rank-0.jsonl"), key=_stage_of)
    return [_read(path, monotonic_zero_s) for path in paths]


def _stage_of(path: Path) -> int:
    return int(path.name.split("-")[1])


def _read(path: Path, zero_s: float) -> list[Span]:
    whole = path.read_text(encoding="utf-8").rpartition("\n")[0]
    lines = [json.loads(line) for line in whole.splitlines()]
    return [
        Span(line["step"], zero_s + line["begin_us"] / 1e6, zero_s + line["end_us"] / 1e6, rows)
        for line in lines
        if (rows := line["rows"])
    ]


def idle_shares(stages: Stages, begin_s: float, end_s: float) -> list[float]:
    """By stage, the share of the time from begin to end in which it computed nothing."""
    return [
        1.0 - sum(_within(span, begin_s, end_s) for span in spans) / (end_s - begin_s)
        for spans in stages
    ]


def _within(span: Span, begin_s: float, end_s: float) -> float:
    return max(0.0, min(span.end_s, end_s) - max(span.begin_s, begin_s))
