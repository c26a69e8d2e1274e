"""From a lane's record of its steps to what each step computed and how long it took."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from scheduler_svc.record_files import steps_paths
from stepserve.protocol.choices import Attention, Batching
from stepserve_bench.simulator.cost import StepShape
from stepserve_bench.simulator.rectangle import Rectangle
from stepserve_bench.simulator.worker import SHAPES

# The command for a step that follows at once is sent in the turn that takes the report.
_SAME_TURN_S = 0.01


@dataclass(frozen=True, slots=True)
class Recording:
    """A directory that a scheduler's ``--record-dir`` filled, and how its worker ran."""

    directory: Path
    attention: Attention = "paged"
    batching: Batching = "continuous"


class MeasuredStep(NamedTuple):
    """``period_us`` is the time from the report before to this step's own.

    It has in it what the step's duration alone has not: the scheduler, Redis and gRPC, as far
    as the worker waited for them or left them its cores. ``follows`` says whether the
    step before was measured too.
    """

    shape: StepShape
    period_us: float
    follows: bool


def measured_steps(recording: Recording) -> list[MeasuredStep]:
    """Return the steps of all records in the directory that their worker did not wait for."""
    steps: list[MeasuredStep] = []
    for path in steps_paths(recording.directory):
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        steps += Follower(recording).read(lines)
    return steps


class Follower:
    """Does with a record what the worker did with the commands."""

    def __init__(self, recording: Recording) -> None:
        self._shape_of = SHAPES[recording.attention]
        is_static = recording.attention == "padded" and recording.batching == "static"
        self._rectangle = Rectangle() if is_static else None
        self._num_computed: dict[int, int] = {}  # Of those that live.

    def read(self, lines: list[dict[str, Any]]) -> Iterator[MeasuredStep]:
        reports = {line["step"]: line for line in lines if line["kind"] == "reported"}
        for line in lines:
            if line["kind"] == "adopted":
                for held in line["sequences"]:
                    self._num_computed[held["sequence_id"]] = held["num_computed"]
        previous_s: float | None = None
        follows = False
        for sent in (line for line in lines if line["kind"] == "sent"):
            report = reports.get(sent["step"])
            if report is None:
                return
            shape = _as_recorded(self.shape(sent, report), report)
            is_at_once = previous_s is not None and sent["time_s"] <= previous_s + _SAME_TURN_S
            if is_at_once and previous_s is not None and shape.num_rows:
                yield MeasuredStep(shape, (report["time_s"] - previous_s) * 1e6, follows)
            follows = is_at_once
            previous_s = report["time_s"]

    def shape(self, sent: dict[str, Any], report: dict[str, Any]) -> StepShape:
        """Return what the step came to by its rows, in the order of the steps."""
        computed = self._num_computed
        for sequence_id in sent["released"]:
            self._leave(sequence_id)
        for admitted in sent["admitted"]:
            computed[admitted["sequence_id"]] = admitted.get("num_computed", 0)
        num_dead = self._rectangle.num_dead(len(computed)) if self._rectangle else 0
        counts, contexts = [], []
        for sequence_id, num_tokens in sent["rows"]:
            if sequence_id in computed:
                computed[sequence_id] += num_tokens
                counts.append(num_tokens)
                contexts.append(computed[sequence_id])
        for sequence_id in report["finished"]:
            self._leave(sequence_id)
        return self._shape_of(counts, contexts, num_dead, len(report["sampled"]))

    def _leave(self, sequence_id: int) -> None:
        if self._num_computed.pop(sequence_id, None) is not None and self._rectangle:
            self._rectangle.left(len(self._num_computed))


def _as_recorded(shape: StepShape, report: dict[str, Any]) -> StepShape:
    """Return the shape with what the worker counted itself; records of old have no counts."""
    if not report.get("num_positions"):
        return shape
    return shape._replace(num_positions=report["num_positions"], num_context=report["num_context"])
