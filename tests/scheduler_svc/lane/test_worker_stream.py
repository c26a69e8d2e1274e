"""A lane's stream outlives its connections, and tells who is gone or hung from who is not."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from scheduler_svc.lane.step_deadline import NUM_TO_LEARN, StepDeadline
from scheduler_svc.lane.worker_stream import (
    WorkerCrashed,
    WorkerGone,
    WorkerRefuses,
    WorkerStream,
)
from stepserve.protocol import step_wire
from stepserve.protocol.channel import server_options
from stepserve.protocol.step import Hello, HelloReply, StepCommand, StepReport, WorkerInfo

INFO = WorkerInfo("me", "m", "f", "float32", 257, 512, 4, 64, 8, 64, 8)
LEAST_S = 0.32


class Answering(step_wire.WorkerServicer):
    """Answers each command with an empty report, unless it is told to owe them.

    At a step of ``breaks`` it ends the stream with that status, once. A Hello after the first is
    refused where it ``is_restarted``, or ``has_crashed``. At step ``ends_at`` it ends.
    """

    def __init__(self) -> None:
        self.owes = self.is_restarted = self.greets_twice = self.has_crashed = False
        self.breaks: dict[int, grpc.StatusCode] = {}
        self.ends_at = 0
        self.hellos: list[Hello] = []
        self.commands: list[StepCommand] = []

    async def Describe(self, _request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        if self.owes:
            await asyncio.sleep(60)
        if self.has_crashed:
            await context.abort(grpc.StatusCode.ABORTED, "SIGSEGV")
        return step_wire.encode_info(INFO)

    async def Steps(
        self, messages: AsyncIterator[Any], context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        hello = step_wire.decode_lane_message(await anext(messages))
        assert isinstance(hello, Hello)
        if self.hellos and self.is_restarted:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "of another incarnation")
        if self.hellos and self.has_crashed:
            await context.abort(grpc.StatusCode.ABORTED, "SIGSEGV")
        self.hellos.append(hello)
        await context.write(step_wire.encode_worker_message(HelloReply(INFO, 0)))
        async for message in messages:
            command = step_wire.decode_lane_message(message)
            assert isinstance(command, StepCommand)
            self.commands.append(command)
            if (status := self.breaks.pop(command.step, None)) is not None:
                await context.abort(status, "it broke here")
            if command.step == self.ends_at:
                return
            if self.greets_twice:
                await context.write(step_wire.encode_worker_message(HelloReply(INFO, 0)))
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


async def test_what_was_not_answered_is_sent_again_over_a_new_connection(
    worker: tuple[Answering, WorkerStream],
) -> None:
    answering, stream = worker
    answering.breaks = {4: grpc.StatusCode.UNAVAILABLE}
    first, last = NUM_TO_LEARN + 1, NUM_TO_LEARN + 3
    for step in range(first, last + 1):
        await stream.send(command(step))
    reports = stream.reports()
    async with asyncio.timeout(20):
        assert [(await anext(reports)).step for _ in range(3)] == [first, first + 1, last]
    again = answering.hellos[1:]
    assert [(hello.incarnation, hello.reset) for hello in again] == [("me", False)]
    sent_anew = [sent.step for sent in answering.commands][-2:]
    assert sent_anew == [4, 5], "in their order, and not the one that was answered"


@pytest.mark.parametrize(
    ("status", "is_refusal"),
    [
        (grpc.StatusCode.FAILED_PRECONDITION, True),
        (grpc.StatusCode.INVALID_ARGUMENT, True),
        (grpc.StatusCode.INTERNAL, False),
    ],
)
async def test_a_refusal_is_told_from_a_worker_that_is_gone(
    worker: tuple[Answering, WorkerStream], status: grpc.StatusCode, is_refusal: bool
) -> None:
    answering, stream = worker
    answering.breaks = {3: status}
    await stream.send(command(3))
    with pytest.raises(WorkerGone, match=f"{status.name}: it broke here") as caught:
        await anext(stream.reports())
    assert isinstance(caught.value, WorkerRefuses) is is_refusal
    assert len(answering.hellos) == 1, "it is not greeted again"


async def test_a_worker_that_was_started_anew_is_not_the_one_that_was_driven(
    worker: tuple[Answering, WorkerStream],
) -> None:
    answering, stream = worker
    answering.breaks, answering.is_restarted = {3: grpc.StatusCode.UNAVAILABLE}, True
    await stream.send(command(3))
    with pytest.raises(WorkerGone, match=r"Hello.*of another incarnation"):
        await anext(stream.reports())


@pytest.mark.parametrize(
    ("status", "how"),
    [(grpc.StatusCode.ABORTED, "it broke here"), (grpc.StatusCode.UNAVAILABLE, "SIGSEGV")],
)
async def test_a_crash_is_told_by_the_worker_itself_or_in_its_place(
    worker: tuple[Answering, WorkerStream], status: grpc.StatusCode, how: str
) -> None:
    answering, stream = worker
    answering.breaks, answering.has_crashed = {3: status}, True
    await stream.send(command(3))
    with pytest.raises(WorkerCrashed, match=how):
        await anext(stream.reports())
    assert [owed.step for owed in stream.unanswered] == [3]


async def test_a_crash_that_is_told_late_is_one_in_whatever_order_it_is_heard_of(
    worker: tuple[Answering, WorkerStream],
) -> None:
    answering, stream = worker
    hung, crash = WorkerGone("it owes a report: hung"), WorkerCrashed("SIGBUS")
    assert await stream.last_word([hung]) is hung, "it lives"
    assert await stream.last_word([hung, crash]) is crash
    answering.has_crashed = True
    late = await stream.last_word([hung])
    assert isinstance(late, WorkerCrashed)
    assert str(late) == "SIGSEGV"
    answering.owes = True
    begun_s = time.monotonic()
    assert await stream.last_word([hung]) is hung
    assert time.monotonic() - begun_s < 10, "who says nothing is not waited for"


async def test_a_worker_that_is_told_to_end_says_so(
    worker: tuple[Answering, WorkerStream],
) -> None:
    answering, stream = worker
    answering.ends_at = 3
    await stream.send(command(3))
    with pytest.raises(WorkerGone, match="the worker ended the stream: OK"):
        await anext(stream.reports())
    assert len(answering.hellos) == 1, "it is not greeted again"


async def test_who_greets_twice_keeps_no_protocol(worker: tuple[Answering, WorkerStream]) -> None:
    answering, stream = worker
    answering.greets_twice = True
    await stream.send(command(3))
    with pytest.raises(WorkerGone, match="second Hello"):
        await anext(stream.reports())


async def test_where_nobody_is_nobody_answers() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        stream = WorkerStream(f"127.0.0.1:{nobody.getsockname()[1]}", StepDeadline(LEAST_S, 60.0))
        with pytest.raises(WorkerGone, match="no answer to Describe"):
            await stream.describe()
        with pytest.raises(WorkerGone, match="no answer to Hello"):
            await stream.open(Hello(1, "test"))
        await stream.close()
