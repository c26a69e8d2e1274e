"""When a stage computed which step: a line each, once it is computed."""

from __future__ import annotations

import json
import time
from pathlib import Path

from stepserve.protocol.step import StepCommand
from worker_svc.core.residents import StepPlan
from worker_svc.group.place import Machine, places
from worker_svc.group.spans import SpanFile
from worker_svc.settings import WorkerSettings
from worker_svc.step.timer import HostTimer


class SlowTimer(HostTimer):
    """A device that is not done yet."""

    is_late = True

    def is_done(self) -> bool:
        return not self.is_late


def plan(step: int) -> StepPlan:
    return StepPlan(StepCommand(1, "me", step))


def test_spans_are_written_in_order_as_they_end(tmp_path: Path) -> None:
    settings = WorkerSettings(model="unused", pipeline_stages=2)
    file = SpanFile(tmp_path / "spans", places(settings, Machine())[1])
    begun_us = time.monotonic_ns() // 1000
    warm, slow, fast = HostTimer(), SlowTimer(), HostTimer()
    file.add(plan(0), warm)
    slow.stop()
    file.add(plan(1), slow)
    path = tmp_path / "spans" / "stage-1-rank-0.jsonl"
    assert path.read_text() == ""
    slow.is_late = False
    fast.stop()
    file.add(plan(2), fast)
    spans = [json.loads(line) for line in path.read_text().splitlines()]
    assert [span["step"] for span in spans] == [1, 2]
    ended_us = time.monotonic_ns() // 1000
    for span in spans:
        assert begun_us - 1 <= span["begin_us"] <= span["end_us"] <= ended_us
        assert (span["rows"], span["tokens"]) == (0, 0)
