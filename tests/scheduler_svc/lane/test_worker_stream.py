"""A worker that owes a report for too long is hung; one that we kept waiting is not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from scheduler_svc.lane.step_deadline import NUM_TO_LEARN, StepDeadline
from scheduler_svc.lane.worker_stream import WorkerGone, WorkerStream
from stepserve.protocol import step_wire
from stepserve.protocol.channel import server_options
from stepserve.protocol.step import Hello, HelloReply, StepCommand, StepReport, WorkerInfo

INFO = WorkerInfo("me", "m", "f", "float32", 257, 512, 4, 64, 8, 64, 8)
LEAST_S = 0.32


class Answering(step_wire.WorkerServicer):
    """Answers each command with an empty report, unless it is told to owe them."""

    def __init__(self) -> None:
        self.owes = False
        self.commands: list[StepCommand] = []

    async def Steps(
        self, messages: AsyncIterator[Any], context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        await anext(messages)
        await context.write(step_wire.encode_worker_message(HelloReply(INFO, 0)))
        async for message in messages:
            command = step_wire.decode_lane_message(message)
            assert isinstance(command, StepCommand)
            self.commands.append(command)
            if not self.owes:
                report = StepReport("me", 1, command.step, duration_us=1000)
                await context.write(step_wire.encode_worker_message(report))


@pytest.fixture
async def worker() -> AsyncIterator[tuple[Answering, WorkerStream]]:
    """A worker whose step times are known, and an open stream to it."""
    server, answering = grpc.aio.server(options=server_options()), Answering()
    step_wire.add_WorkerServicer_to_server(answering, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    stream = WorkerStream(f"127.0.0.1:{port}", StepDeadline(LEAST_S, 60.0))
    try:
        await stream.open(Hello(1, "test"))
        reports = stream.reports()
        for step in range(1, 1 + NUM_TO_LEARN):
            await stream.send(command(step))
            assert (await anext(reports)).step == step
        yield answering, stream
    finally:
        await stream.close()
        await server.stop(None)


def command(step: int) -> StepCommand:
    return StepCommand(
        1, "me", step, row_sequence_ids=(1,), row_num_tokens=(1,), row_num_new_blocks=(0,)
    )


async def test_who_owes_a_report_for_too_long_is_hung(
    worker: tuple[Answering, WorkerStream],
) -> None:
    answering, stream = worker
    answering.owes = True
    await stream.send(command(3))
    sent_s = time.monotonic()
    with pytest.raises(WorkerGone, match=r"no report of step 3 for 0\.[34] s: hung"):
        await stream.watch()
    assert time.monotonic() - sent_s >= LEAST_S
    limits_ms = [command.max_duration_ms for command in answering.commands]
    assert limits_ms == [60_000] * NUM_TO_LEARN + [1000 * LEAST_S], "the worker is told"


async def test_time_in_which_we_stood_still_is_not_the_worker_s(
    worker: tuple[Answering, WorkerStream],
) -> None:
    _, stream = worker
    watching = asyncio.create_task(stream.watch())
    await asyncio.sleep(0)
    await stream.send(command(3))
    time.sleep(2 * LEAST_S)  # noqa: ASYNC251 - the whole process stands still
    await asyncio.sleep(LEAST_S / 16)
    assert not watching.done()
    assert (await anext(stream.reports())).step == 3
    watching.cancel()
