from __future__ import annotations

import pytest

from scheduler_svc.lane.core_config import core_config
from scheduler_svc.queue import Lease
from scheduler_svc.settings import PlanningSettings
from stepserve.protocol.step import HelloReply, WorkerInfo

LEASE = Lease("127.0.0.1:5001", "me", 7, 1000)


@pytest.mark.parametrize(("num_stages", "depth"), [(1, 2), (2, 3), (4, 5)])
def test_each_further_stage_has_a_step_in_flight(num_stages: int, depth: int) -> None:
    info = WorkerInfo(
        incarnation="i",
        model="m",
        fingerprint="f",
        dtype="float32",
        vocab_size=10,
        max_context=64,
        block_size=4,
        num_blocks=32,
        max_batch_size=8,
        max_step_tokens=64,
        max_kept_reports=64,
        num_stages=num_stages,
    )
    config = core_config(LEASE, HelloReply(info, 6, ()), PlanningSettings(target_batch_size=3))
    assert (config.num_stages, config.max_steps_in_flight) == (num_stages, depth)
    assert (config.target_rows, config.first_step) == (3, 7)
