"""Recordings are found again by what they are called."""

from __future__ import annotations

from pathlib import Path

from scheduler_svc.record_files import events_path, record_name, steps_path, steps_paths


def test_both_kinds_may_lie_in_one_directory(tmp_path: Path) -> None:
    names = [record_name("127.0.0.1:5001", 7), record_name("[::1]:5001", 8)]
    for name in names:
        steps_path(tmp_path, name).touch()
        events_path(tmp_path, name).touch()
    assert len(list(tmp_path.iterdir())) == 4
    assert steps_paths(tmp_path) == sorted(steps_path(tmp_path, name) for name in names)


def test_they_are_named_by_worker_and_epoch() -> None:
    name = record_name("127.0.0.1:5001", 7)
    assert steps_path(Path("d"), name) == Path("d/127.0.0.1_5001-7.jsonl")
    assert events_path(Path("d"), name) == Path("d/127.0.0.1_5001-7.events.jsonl")
