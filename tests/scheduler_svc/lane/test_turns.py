"""Who observes a lane's turns may fail: nobody else notices."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from scheduler_svc.core.events import Claimed, Effect, Event
from scheduler_svc.core.scheduler import Core
from scheduler_svc.lane.recordings import recordings
from scheduler_svc.lane.turns import Observers
from scheduler_svc.queue import Lease
from scheduler_svc.record_files import record_name, steps_path
from scheduler_svc.settings import LaneSettings
from tests.scheduler_svc.core.build import core_config, job


class Counting:
    """An observer that fails from its ``last`` turn on."""

    def __init__(self, last: int) -> None:
        self.num_told = 0
        self._last = last

    def observe(self, _: Sequence[Event], __: Sequence[Effect], ___: Core, /) -> None:
        self.num_told += 1
        if self.num_told >= self._last:
            raise OSError(28, "No space left on device")


def test_one_that_fails_is_told_no_more_and_the_others_are(
    caplog: pytest.LogCaptureFixture,
) -> None:
    counting = [Counting(last) for last in (9, 2, 1, 9)]
    core, observers = Core(core_config()), Observers(counting)
    for _ in range(4):
        observers.observe((), (), core)
    assert [each.num_told for each in counting] == [4, 2, 1, 4]
    assert len(caplog.records) == 2
    assert "Counting failed and is told of no more turns" in caplog.text
    assert "No space left" in caplog.text


def test_a_recording_on_a_full_disk_ends_quietly(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lease = Lease("127.0.0.1:5001", "me", 7, 1000)
    steps_path(tmp_path, record_name(lease.worker_id, lease.epoch)).symlink_to("/dev/full")
    with recordings(LaneSettings(record_dir=str(tmp_path)), lease, core_config()) as observers:
        core, told = Core(core_config()), Observers(observers)
        for events in ((), (Claimed((job("a"),)),), ()):
            told.observe(events, core.handle(events), core)
    assert len(caplog.records) == 1
    assert "StepRecorder failed" in caplog.text
