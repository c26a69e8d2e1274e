"""What a worker tells of its steps, its sequences and of whom it refused."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from stepserve.protocol.step import StepReport
from tests.worker_svc.test_server import Worker, worker
from worker_svc.machine import tally as tally_module
from worker_svc.machine.tally import Tally

__all__ = ["worker"]

WAIT_S = 20.0


def told(worker: Worker) -> dict[str, Any]:
    """The one value of each family, by its name."""
    families = worker.server.metrics.families()
    return {family.name: next(iter(family.values.values())) for family in families}


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.01)


async def test_steps_tokens_and_sequences_are_counted(worker: Worker) -> None:
    begun_s = time.monotonic()
    stream = worker.stream()
    await stream.hello()
    first = await stream.step(worker.prefill(5))
    worker.lane.take(first)
    second = await stream.step(worker.lane.command({1: 1}))
    values = told(worker)
    assert sum(values["worker_step_duration_seconds"].counts) == 2
    busy_s = (first.duration_us + second.duration_us) / 1e6
    assert abs(values["worker_device_busy_seconds"] - busy_s) < 1e-9
    assert values["worker_generation_tokens"] == 2
    assert values["worker_positions"] == first.num_positions + second.num_positions
    assert values["worker_sequences"] == values["worker_hellos"] == 1
    # Between the two steps there was a sequence, and nothing to do for it.
    assert 0 < values["worker_device_starved_seconds"] < time.monotonic() - begun_s
    assert values["worker_stuck"] == values["stale_commands_refused"] == 0


async def test_a_stale_command_is_counted_as_refused(worker: Worker) -> None:
    stream = worker.stream()
    await stream.hello(epoch=7)
    await stream.send(replace(worker.prefill(), epoch=6))
    await stream.refusal()
    await until(lambda: told(worker)["stale_commands_refused"] == 1)


def test_what_waits_for_no_sequence_is_idle_and_not_starved(monkeypatch: Any) -> None:
    now_s = 100.0
    monkeypatch.setattr(tally_module.time, "monotonic", lambda: now_s)
    tally = Tally()
    tally.starves_no_more()
    tally.landed(StepReport("i", 1, 1, duration_us=500), is_starved=True)
    now_s = 101.5
    tally.starves_no_more()
    tally.landed(StepReport("i", 1, 2, duration_us=500), is_starved=False)
    now_s = 200.0
    tally.starves_no_more()
    tally.landed(StepReport("i", 1, 3), is_starved=True)
    now_s = 200.5
    tally.starves_no_more()
    now_s = 300.0
    tally.starves_no_more()
    assert tally.starved_s == 1.5 + 0.5
    assert tally.step_s.total == 0.001
