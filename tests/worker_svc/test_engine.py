"""What becomes of a step: recorded, reported in its turn, and nothing after one that failed."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from stepserve.protocol import step_wire
from stepserve.protocol.errors import StepFailed
from stepserve.protocol.sampling import Sampling
from stepserve.protocol.step import Hello, StepCommand
from tests.worker_svc.conftest import Assemble
from tests.worker_svc.lane import Lane
from worker_svc.core.residents import StepPlan
from worker_svc.core.step_runner import Launched
from worker_svc.engine import Commands, Engine
from worker_svc.server import MAX_WAITING_REPORTS, StepService
from worker_svc.step.pending import Pending

GREEDY = Sampling(max_tokens=8, temperature=0.0)


async def test_a_step_that_has_begun_is_recorded_whatever_becomes_of_its_stream(
    assembled: Assemble,
) -> None:
    assembly = assembled()
    engine, commands, lane = Engine(assembly.runner, assembly.info), Commands(), Lane(64, 4)
    await engine.greet(Hello(1, "test"), commands)
    command = lane.command({lane.admit(range(1, 61), GREEDY): 60})
    executing = asyncio.create_task(engine.execute(command, commands))
    while not engine.is_busy:
        await asyncio.sleep(0)
    executing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await executing
    successor = Commands()
    reply, _ = await engine.greet(Hello(2, "test"), successor)
    assert reply.last_step == 1
    report = await engine.execute(replace(command, epoch=2), successor)
    assert len(report.token_ids) == 1
    await engine.drain(1.0)


async def test_a_broken_worker_executes_nothing_more(assembled: Assemble) -> None:
    """Not even what it was sent before it broke."""
    assembly = assembled()
    commands, lane = Commands(), Lane(64, 4)
    broken = Engine(assembly.runner, assembly.info)
    await broken.greet(Hello(1, "test"), commands)
    weights = assembly.runner.executor.model._weights
    torch.Tensor.resize_(weights.embedding, (0, 0))
    first = broken.execute(lane.command({lane.admit((1, 2, 3), GREEDY): 3}), commands)
    second = broken.execute(StepCommand(1, "me", 1), commands)
    outcomes = await asyncio.gather(first, second, return_exceptions=True)
    assert [repr(outcome) for outcome in outcomes] == [
        repr(StepFailed(broken.failure.result()))
    ] * 2
    await broken.drain(1.0)


async def test_a_step_that_fails_while_others_are_launched_ends_them_and_no_more(
    assembled: Assemble, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step before it is reported; nobody need ask for what failed."""
    assembly, commands, lane = assembled(), Commands(), Lane(64, 4)
    engine = Engine(assembly.runner, assembly.info, launch_ahead=2)
    untold: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: untold.append(context))
    await engine.greet(Hello(1, "test"), commands)
    launch = assembly.runner.launch

    def fail(plan: StepPlan) -> Pending:
        if plan.command.step == 2:
            raise RuntimeError("no step 2")
        return launch(plan)

    monkeypatch.setattr(assembly.runner, "launch", fail)
    job = lane.admit((1, 2, 3), GREEDY)
    coming = [await engine.begin(lane.command({job: 3}), commands)]
    coming += [await engine.begin(lane.command({job: 1}), commands) for _ in range(2)]
    await asyncio.wait(coming)
    assert len((await coming[0]).token_ids) == 1
    assert await engine.failure == "step 2 failed: RuntimeError: no step 2"
    del coming
    gc.collect()
    await engine.drain(1.0)
    assert untold == []


async def test_each_step_has_its_own_time_also_while_it_is_still_being_launched(
    assembled: Assemble, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long prompt behind a step of one token: on a CPU its launch is all of it."""
    assembly, commands, lane = assembled(), Commands(), Lane(64, 4)
    engine = Engine(assembly.runner, assembly.info, launch_ahead=1)
    await engine.greet(Hello(1, "test"), commands)
    launch, may_launch = assembly.runner.launch, threading.Event()

    def slow(plan: StepPlan) -> Launched:
        assert plan.command.step == 1 or may_launch.wait(60)
        return launch(plan)

    monkeypatch.setattr(assembly.runner, "launch", slow)
    job = lane.admit((1, 2, 3), GREEDY)
    short = replace(lane.command({job: 3}), max_duration_ms=100)
    long = replace(lane.command({job: 1}), max_duration_ms=60_000)
    begun_s = time.monotonic()
    reports = [await engine.begin(command, commands) for command in (short, long)]
    await reports[0]
    while time.monotonic() < begun_s + 0.2:
        await asyncio.sleep(0.01)
    assert not engine.is_stuck
    may_launch.set()
    assert len((await reports[1]).token_ids) == 1
    assert not engine.is_stuck
    await engine.drain(1.0)


class SlowContext:
    """What grpc gives a stream's handler, where the lane reads only when it is told to."""

    def __init__(self) -> None:
        self.may_write = asyncio.Semaphore(0)
        self.written: list[Any] = []

    async def write(self, message: Any) -> None:
        await self.may_write.acquire()
        self.written.append(step_wire.decode_worker_message(message))


async def endless_commands() -> AsyncIterator[Any]:
    yield step_wire.encode_lane_message(Hello(1, "test"))
    for step in range(1, 1000):
        command = StepCommand(1, "me", step, committed_step=max(0, step - 4))
        yield step_wire.encode_lane_message(command)


async def test_the_device_does_not_wait_for_a_report_to_be_written(assembled: Assemble) -> None:
    assembly = assembled()
    driven, context = Engine(assembly.runner, assembly.info), SlowContext()
    context.may_write.release()
    service: Any = StepService(driven)
    stream = asyncio.create_task(service.Steps(endless_commands(), context))
    # One report is being written, the queue is full, one waits to be put into it.
    for num_written in (0, 1, 5):
        expected = num_written + MAX_WAITING_REPORTS + 2
        while driven._ledger.last_step < expected:
            await asyncio.sleep(0)
        for _ in range(1000):
            await asyncio.sleep(0)
        assert driven._ledger.last_step == expected
        assert len(context.written) == 1 + num_written
        for _ in range({0: 1, 1: 4}.get(num_written, 0)):
            context.may_write.release()
    assert [report.step for report in context.written[1:]] == [1, 2, 3, 4, 5]
    stream.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stream
    await driven.drain(1.0)
