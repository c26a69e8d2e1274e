"""What the settings want written down of a hold is written, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

from scheduler_svc.core.events import Adopted, Claimed
from scheduler_svc.core.scheduler import Core
from scheduler_svc.lane.recordings import recordings
from scheduler_svc.queue import Lease
from scheduler_svc.record_files import events_path, steps_path, steps_paths
from scheduler_svc.settings import LaneSettings
from scheduler_svc.trace.file import open_trace
from stepserve.protocol.step import ResidentSequence
from tests.scheduler_svc.core.build import core_config, job

LEASE = Lease("127.0.0.1:5001", "me", 7, 1000)
NAME = "127.0.0.1_5001-7"


def record(steps: str, events: str) -> None:
    """Record two turns of a core; the second admits a job."""
    settings = LaneSettings(record_dir=steps, record_events_dir=events)
    with recordings(settings, LEASE, core_config()) as observers:
        core = Core(core_config())
        for told in ((), (Claimed((job("a"),)),)):
            effects = core.handle(told)
            for observer in observers:
                observer.observe(told, effects, core)


def test_both_kinds_into_one_directory(tmp_path: Path) -> None:
    record(str(tmp_path), str(tmp_path))
    [steps] = steps_paths(tmp_path)
    assert steps == steps_path(tmp_path, NAME)
    lines = [json.loads(line) for line in steps.read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["sent", "sent"]
    assert lines[0]["rows"] == [[1, 3]]
    with open_trace(events_path(tmp_path, NAME)) as trace:
        assert [len(events) for events, _ in trace.turns()] == [0, 1]


def test_what_was_taken_over_is_said_first(tmp_path: Path) -> None:
    held = ResidentSequence(3, "a", 0, 4, 3, (5,))
    adopted = Adopted((job("a", outputs={0: (9,)}),), (held,), last_id=3)
    with recordings(LaneSettings(record_dir=str(tmp_path)), LEASE, core_config()) as observers:
        core = Core(core_config())
        effects = core.handle((adopted,))
        for observer in observers:
            observer.observe((adopted,), effects, core)
    [steps] = steps_paths(tmp_path)
    first, second, *_ = [json.loads(line) for line in steps.read_text().splitlines()]
    assert (first["kind"], [s["sequence_id"] for s in first["sequences"]]) == ("adopted", [3])
    assert (second["rows"], second["admitted"]) == ([[3, 1]], [])


def test_each_alone_and_none(tmp_path: Path) -> None:
    steps, events = tmp_path / "steps", tmp_path / "events"
    record(str(steps), "")
    record("", str(events))
    record("", "")
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == [
        events_path(events, NAME),
        steps_path(steps, NAME),
    ]
