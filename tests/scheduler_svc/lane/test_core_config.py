"""How many steps a lane has in flight: as far ahead as its worker launches."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scheduler_svc.lane.core_config import core_config
from scheduler_svc.queue import Lease
from scheduler_svc.settings import PlanningSettings
from stepserve.protocol.step import HelloReply, WorkerInfo

INFO = WorkerInfo("i", "m", "f", "float32", 100, 64, 16, 9, 4, 64, 8)


@pytest.mark.parametrize(
    ("launch_ahead", "num_stages", "asked", "expected"),
    [
        (0, 1, None, 2),
        (2, 1, None, 3),
        (100, 1, None, 8),
        (2, 1, 1, 1),
        (0, 3, None, 4),
        (2, 2, 5, 6),
    ],
)
def test_as_far_ahead_as_the_worker_launches_or_as_was_asked(
    launch_ahead: int, num_stages: int, asked: int | None, expected: int
) -> None:
    info = replace(INFO, launch_ahead=launch_ahead, num_stages=num_stages)
    settings = PlanningSettings(max_steps_in_flight=asked)
    config = core_config(Lease("w", "here", 1, 1000), HelloReply(info, 0, ()), settings)
    assert config.max_steps_in_flight == expected
