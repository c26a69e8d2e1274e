"""What the registry is told of the workers that a scheduler knows."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from scheduler_svc.fleet import roll as module
from scheduler_svc.fleet.assignment import Assignment, Held
from scheduler_svc.fleet.roll import Roll, sightings
from scheduler_svc.queue import Sighting
from stepserve.protocol.errors import Unavailable
from stepserve.protocol.step import WorkerInfo
from tests.scheduler_svc.queue.build import within

INFO = WorkerInfo(
    "one", "m", "f", "float32", 257, 512, 4, 64, 8, 32, 8, 2, 1, "NVIDIA H200", "1.0", 4
)


def answering(info: WorkerInfo = INFO, problem: str = "") -> Assignment:
    assignment = Assignment()
    assignment.answered(info)
    assignment.problem = problem
    return assignment


def held(step_us: Sequence[int], core: Any = None) -> Held:
    meter: Any = SimpleNamespace(core=core, step_us=deque(step_us))
    return Held(1_700_000_000_500_000, meter)


def test_what_answers_is_told_with_what_it_can_hold_and_why_nobody_drives_it() -> None:
    assignment = answering(problem="serves other, not m" + "x" * 1000)
    [found] = sightings({"w:1": assignment}, "me", assignment.answered_s + 3.0)
    status = found.status
    assert found.age_s == pytest.approx(3.0)
    assert (status.worker_id, status.model, status.driver) == ("w:1", "m", "")
    assert (status.num_blocks, status.num_stages, status.tensor_parallel) == (64, 2, 4)
    assert (status.device, status.version, status.fingerprint) == ("NVIDIA H200", "1.0", "f")
    assert status.note.startswith("serves other, not m")
    assert len(status.note) == module.MAX_NOTE_CHARS
    assert (status.num_recent_steps, status.step_p50_s, status.step_p99_s) == (0, None, None)
    assert sightings({"w:1": Assignment()}, "me", 0.0) == []


def test_a_driver_tells_since_when_and_how_long_steps_take() -> None:
    assignment = answering(problem="it was gone")
    core = SimpleNamespace(num_running=3, num_waiting=1, num_free_blocks=50)
    with assignment.holding(held([*range(1, 101)], core)):
        [found] = sightings({"w:1": assignment}, "me", time.monotonic() + 999)
    status = found.status
    assert (found.age_s, status.driver, status.driven_since_s) == (0.0, "me", 1_700_000_000.5)
    assert (status.num_running, status.num_waiting, status.num_free_blocks) == (3, 1, 50)
    assert (status.num_recent_steps, status.step_p50_s, status.step_p99_s) == (100, 5e-5, 9.9e-5)
    assert status.note == ""
    [after] = sightings({"w:1": assignment}, "me", time.monotonic())
    assert after.status.driver == ""


@pytest.mark.parametrize(
    ("count", "p50", "p99"), [(1, 1, 1), (2, 1, 2), (3, 2, 3), (200, 100, 198)]
)
def test_quantiles_are_values_that_were_measured(count: int, p50: int, p99: int) -> None:
    assignment = answering()
    with assignment.holding(held(range(count, 0, -1))):
        [found] = sightings({"w:1": assignment}, "me", 0.0)
    assert (found.status.step_p50_s, found.status.step_p99_s) == (p50 / 1e6, p99 / 1e6)


def test_a_worker_at_two_addresses_is_told_of_once_where_it_is_driven() -> None:
    assignments = {"w:2": answering(), "w:1": answering(), "w:3": answering()}
    [found] = sightings(assignments, "me", 0.0)
    assert found.status.worker_id == "w:1"
    with assignments["w:2"].holding(held([])):
        [found] = sightings(assignments, "me", 0.0)
    assert (found.status.worker_id, found.status.driver) == ("w:2", "me")


def test_who_should_hold_a_worker_is_said_anew_of_another_models() -> None:
    assignment = answering()
    assignment.keep(may_take=True)
    assignment.answered(INFO)
    assert assignment._should_hold
    assignment.answered(replace(INFO, model="other"))
    assert not assignment._should_hold


async def test_it_tells_again_whatever_goes_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TELL_INTERVAL_S", 0.001)

    errors = [Unavailable("away"), ValueError("odd"), ValueError("odd")]

    class Registry:
        told = asyncio.Event()

        async def tell(self, who: str, known: Sequence[Sighting]) -> None:
            if errors:
                raise errors.pop()
            assert (who, len(known)) == ("me", 1)
            self.told.set()

    registry: Any = Registry()
    task = asyncio.create_task(Roll(registry, "me", {"w:1": answering()}).run())
    async with within():
        await registry.told.wait()
    task.cancel()
