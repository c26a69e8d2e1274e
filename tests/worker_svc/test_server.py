"""The worker over real gRPC: who may drive, what is answered again, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc
import pytest
import torch
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from stepserve.protocol import step_wire
from stepserve.protocol.channel import channel_options
from stepserve.protocol.sampling import Sampling
from stepserve.protocol.step import FinishReason, Hello, HelloReply, StepCommand, StepReport
from tests.worker_svc.conftest import Assemble
from tests.worker_svc.lane import Lane
from worker_svc.assembled import Assembly
from worker_svc.core.residents import StepPlan
from worker_svc.engine import STUCK
from worker_svc.server import MAX_CALLS, WorkerServer
from worker_svc.settings import WorkerSettings
from worker_svc.step.pending import Pending

TIMEOUT_S = 20.0
GREEDY = Sampling(max_tokens=8, temperature=0.0)


class Client:
    """One stream, as a lane would hold it."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        stub = step_wire.WorkerStub(channel)  # type: ignore[no-untyped-call]
        self._call = stub.Steps(timeout=TIMEOUT_S)

    async def send(self, *values: Hello | StepCommand) -> None:
        for value in values:
            await self._call.write(step_wire.encode_lane_message(value))

    async def send_raw(self, message: Any) -> None:
        await self._call.write(message)

    async def receive(self) -> Any:
        message = await self._call.read()
        assert message is not grpc.aio.EOF, await self._call.details()
        return step_wire.decode_worker_message(message)

    async def hello(self, epoch: int = 1, **more: Any) -> HelloReply:
        await self.send(Hello(epoch, "test", **more))
        reply = await self.receive()
        assert isinstance(reply, HelloReply)
        return reply

    async def step(self, command: StepCommand) -> StepReport:
        await self.send(command)
        report = await self.receive()
        assert isinstance(report, StepReport)
        return report

    async def refusal(self) -> tuple[grpc.StatusCode, str]:
        """How the worker ended the stream."""
        with contextlib.suppress(grpc.aio.AioRpcError):
            while await self._call.read() is not grpc.aio.EOF:
                pass
        return await self._call.code(), await self._call.details()

    async def close(self) -> None:
        """Close our half; the worker ends the stream without complaint."""
        await self._call.done_writing()
        assert await self._call.read() is grpc.aio.EOF
        assert await self._call.code() is grpc.StatusCode.OK

    def cancel(self) -> None:
        self._call.cancel()


class Worker:
    """A worker on a free port, and a channel to it."""

    def __init__(self, assembly: Assembly, address: str, server: WorkerServer) -> None:
        self.assembly = assembly
        self.server = server
        self.channel = grpc.aio.insecure_channel(address, options=channel_options())
        self.lane = Lane(assembly.info.num_blocks, assembly.info.block_size)

    def stream(self) -> Client:
        return Client(self.channel)

    def prefill(self, length: int = 5, sampling: Sampling = GREEDY) -> StepCommand:
        sequence_id = self.lane.admit(range(1, length + 1), sampling)
        return self.lane.command({sequence_id: length})


@pytest.fixture
async def worker(assembled: Assemble) -> AsyncIterator[Worker]:
    assembly = assembled()
    settings = WorkerSettings(model="unused", port=0)
    server = WorkerServer(settings, assembly)
    worker = Worker(assembly, await server.start(), server)
    yield worker
    await worker.channel.close()
    await server.stop()


async def test_it_says_what_it_is(worker: Worker) -> None:
    stub = step_wire.WorkerStub(worker.channel)  # type: ignore[no-untyped-call]
    info = step_wire.decode_info(await stub.Describe(step_wire.describe_request()))
    assert info == worker.assembly.info
    assert (info.dtype, info.vocab_size, info.max_context) == ("float64", 257, 256)


async def test_commands_are_answered_in_order_while_more_are_on_their_way(worker: Worker) -> None:
    stream = worker.stream()
    reply = await stream.hello()
    assert (reply.info, reply.last_step, reply.sequences) == (worker.assembly.info, 0, ())
    await stream.send(worker.prefill(), *(worker.lane.command({1: 1}) for _ in range(7)))
    for _ in range(8):
        worker.lane.take(await stream.receive())
    assert worker.lane.step == worker.lane.committed == 8
    assert worker.lane.jobs[1].finish is FinishReason.LENGTH
    assert len(worker.lane.jobs[1].tokens) == 8
    await stream.close()


async def test_a_step_sent_again_is_answered_again_and_executed_once(worker: Worker) -> None:
    stream = worker.stream()
    await stream.hello()
    command = worker.prefill()
    report = await stream.step(command)
    assert await stream.step(command) == report
    stream.cancel()
    second = worker.stream()
    reply = await second.hello(incarnation="me")
    assert (reply.last_step, len(reply.sequences)) == (1, 1)
    assert await second.step(command) == report
    worker.lane.take(report)
    worker.lane.take(await second.step(worker.lane.command({1: 1})))
    assert worker.assembly.runner.residents()[0].num_tokens == 7


REFUSALS: dict[str, dict[str, Any]] = {
    "gap: step 3, the next is 2": {"step": 3},
    "stale epoch 4": {"epoch": 4},
    "unannounced epoch 6": {"epoch": 6},
    "incarnation 'other' is gone": {"incarnation": "other"},
    "sequence 99 is unknown": {
        "row_sequence_ids": (99,),
        "row_num_tokens": (1,),
        "row_num_new_blocks": (0,),
    },
}


@pytest.mark.parametrize("reason", REFUSALS)
async def test_what_may_not_be_is_refused_and_changes_nothing(worker: Worker, reason: str) -> None:
    stream = worker.stream()
    await stream.hello(epoch=5)
    await stream.step(replace(worker.prefill(), epoch=5))
    before = worker.assembly.runner.residents()
    command = replace(worker.lane.command({}), epoch=5)
    await stream.send(replace(command, **REFUSALS[reason]))
    code, details = await stream.refusal()
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert reason in details
    assert worker.assembly.runner.residents() == before
    again = worker.stream()
    assert (await again.hello(epoch=5)).last_step == 1
    assert (await again.step(command)).step == 2


@pytest.mark.parametrize(
    ("hello", "reason"),
    [
        (Hello(4, "late"), "stale epoch 4"),
        (Hello(9, "lost", incarnation="other"), "incarnation 'other'"),
        (Hello(9, "new", protocol_version=2), "protocol version 2"),
    ],
)
async def test_a_hello_that_may_not_drive_disturbs_nobody(
    worker: Worker, hello: Hello, reason: str
) -> None:
    stream = worker.stream()
    await stream.hello(epoch=5)
    other = worker.stream()
    await other.send(hello)
    code, details = await other.refusal()
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert reason in details
    assert (await stream.step(replace(worker.prefill(), epoch=5))).step == 1


@pytest.mark.parametrize("epoch", [5, 6])
async def test_a_newer_hello_supersedes_the_stream_before(worker: Worker, epoch: int) -> None:
    old = worker.stream()
    await old.hello(epoch=5)
    report = await old.step(replace(worker.prefill(), epoch=5))
    new = worker.stream()
    reply = await new.hello(epoch=epoch)
    code, details = await old.refusal()
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert f"superseded by a Hello with epoch {epoch}" in details
    assert reply.last_step == 1
    assert reply.sequences[0].num_tokens == 6
    worker.lane.take(report)
    command = replace(worker.lane.command({1: 1}), epoch=epoch)
    assert (await new.step(command)).epoch == epoch


async def test_a_hello_with_reset_lets_go_of_everything(worker: Worker) -> None:
    stream = worker.stream()
    await stream.hello()
    command = worker.prefill()
    await stream.step(command)
    reply = await worker.stream().hello(epoch=2, reset=True)
    assert (reply.last_step, reply.sequences) == (1, ())


async def test_what_was_not_started_is_dropped_by_a_takeover(worker: Worker) -> None:
    """Whatever the old stream still had in its queue, the new one goes on right after last_step."""
    old = worker.stream()
    await old.hello()
    await old.send(worker.prefill(), *(worker.lane.command({1: 1}) for _ in range(6)))
    new = worker.stream()
    reply = await new.hello(epoch=2)
    assert 0 <= reply.last_step <= 7
    command = StepCommand(epoch=2, incarnation="me", step=reply.last_step + 1)
    assert (await new.step(command)).step == reply.last_step + 1
    code, _ = await old.refusal()
    assert code is grpc.StatusCode.FAILED_PRECONDITION


async def test_no_more_reports_are_kept_than_agreed(worker: Worker) -> None:
    stream = worker.stream()
    await stream.hello()
    for step in range(1, 9):
        await stream.step(StepCommand(1, "me", step))
    await stream.send(StepCommand(1, "me", 9))
    code, details = await stream.refusal()
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "8 reports are kept" in details


MALFORMED: dict[str, Any] = {
    "kind": step_wire.pb.LaneMessage(),
    "hello": step_wire.encode_lane_message(Hello(1, "again")),
    "release_ids": step_wire.pb.LaneMessage(
        command=step_wire.pb.StepCommand(release_ids=b"abc", step=1)
    ),
}


@pytest.mark.parametrize("field", MALFORMED)
async def test_a_malformed_message_is_the_senders_fault(worker: Worker, field: str) -> None:
    stream = worker.stream()
    await stream.hello()
    await stream.send_raw(MALFORMED[field])
    code, details = await stream.refusal()
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert details.startswith(f"{field}:")


async def test_a_stream_begins_with_a_hello(worker: Worker) -> None:
    stream = worker.stream()
    await stream.send(worker.prefill())
    code, details = await stream.refusal()
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "begins with a hello" in details


async def test_a_stream_that_says_nothing_is_ended(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker_svc.server.HELLO_TIMEOUT_S", 0.01)
    code, details = await worker.stream().refusal()
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert details == "hello: none came within 0.01 s"


async def test_calls_are_bounded(worker: Worker) -> None:
    stub = health_pb2_grpc.HealthStub(worker.channel)
    watches = [stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(MAX_CALLS)]
    for watch in watches:
        await watch.read()
    code, _ = await worker.stream().refusal()
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    for watch in watches:
        watch.cancel()


async def test_health_says_whether_it_serves(worker: Worker) -> None:
    stub = health_pb2_grpc.HealthStub(worker.channel)
    for service in ("", "stepserve.v1.Worker"):
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_step_that_takes_too_long_shows_and_nobody_is_let_wait_for_it(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner, may_go_on = worker.assembly.runner, threading.Event()
    launch = runner.launch

    def launch_late(plan: StepPlan) -> Pending:
        may_go_on.wait(TIMEOUT_S)
        return launch(plan)

    monkeypatch.setattr(runner, "launch", launch_late)
    watch = health_pb2_grpc.HealthStub(worker.channel).Watch(health_pb2.HealthCheckRequest())
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    stream = worker.stream()
    await stream.hello()
    await stream.send(replace(worker.prefill(), max_duration_ms=1))
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert worker.server.problem == STUCK, "over HTTP as well"
    other, stub = worker.stream(), step_wire.WorkerStub(worker.channel)  # type: ignore[no-untyped-call]
    await other.send(Hello(2, "another"))
    assert await other.refusal() == (grpc.StatusCode.UNAVAILABLE, STUCK)
    with pytest.raises(grpc.aio.AioRpcError, match=STUCK):
        await stub.Describe(step_wire.describe_request())
    may_go_on.set()
    assert (await stream.receive()).step == 1
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    assert worker.server.problem == ""
    await stub.Describe(step_wire.describe_request())


async def test_stopping_ends_the_stream_and_turns_the_health(worker: Worker) -> None:
    stream = worker.stream()
    await stream.hello()
    watch = health_pb2_grpc.HealthStub(worker.channel).Watch(health_pb2.HealthCheckRequest())
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    stopping = asyncio.create_task(worker.server.stop())
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
    code, details = await stream.refusal()
    assert (code, details) == (grpc.StatusCode.OK, "")
    await stopping


async def test_a_step_that_runs_while_it_stops_is_reported(worker: Worker) -> None:
    stream = worker.stream()
    await stream.hello()
    await stream.send(worker.prefill(60))
    while not worker.server.is_busy:
        await asyncio.sleep(0)
    stopping = asyncio.create_task(worker.server.stop())
    report = await stream.receive()
    assert (report.step, len(report.token_ids)) == (1, 1)
    assert (await stream.refusal())[0] is grpc.StatusCode.OK
    await stopping


async def test_reflection_names_the_service(worker: Worker) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(worker.channel)
    call = stub.ServerReflectionInfo()
    await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    names = [service.name for service in (await call.read()).list_services_response.service]
    assert "stepserve.v1.Worker" in names
    call.cancel()


async def test_a_step_that_fails_is_the_end_of_the_worker(worker: Worker) -> None:
    weights = worker.assembly.runner.executor.model._weights
    torch.Tensor.resize_(weights.embedding, (0, 0))
    stream = worker.stream()
    await stream.hello()
    await stream.send(worker.prefill())
    code, details = await stream.refusal()
    failure = await asyncio.wait_for(worker.server.failure, TIMEOUT_S)
    assert failure.startswith("step 1 failed: ")
    assert (code, details) == (grpc.StatusCode.ABORTED, failure), "its lane is told what happened"
    assert "\n" not in failure
    again = worker.stream()
    await again.send(Hello(2, "test"))
    assert await again.refusal() == (grpc.StatusCode.ABORTED, failure)
