"""The worker over real gRPC, while steps are launched that nobody has heard of yet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import pytest

from stepserve.protocol.step import FinishReason, Hello, HelloReply, StepCommand, StepReport
from tests.checkpoints import lone_greedy
from tests.worker_svc.conftest import Assemble
from tests.worker_svc.drive import GREEDY, all_is_free, prompt
from tests.worker_svc.lane import Lane
from tests.worker_svc.step.late import LateDevice
from tests.worker_svc.step.recorded import Recordings
from tests.worker_svc.step.written import WatchedCache
from tests.worker_svc.test_server import TIMEOUT_S, Client, Worker
from worker_svc.engine import Engine
from worker_svc.server import WorkerServer
from worker_svc.settings import WorkerSettings

AHEAD = 2


@dataclass(frozen=True, slots=True)
class Late:
    """A worker that launches ahead, its device, and where its steps write."""

    worker: Worker
    device: LateDevice
    cache: WatchedCache

    @property
    def lane(self) -> Lane:
        return self.worker.lane

    @property
    def engine(self) -> Engine:
        return self.worker.server._engine

    async def until_launched(self, count: int) -> None:
        await until(lambda: len(self.cache.written) == count)

    def take(self, report: StepReport) -> None:
        """Believe a report; what it frees is poisoned before it is given on."""
        self.lane.take(report)
        self.cache.poison(block_id for _, block_ids in report.freed for block_id in block_ids)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while not condition():
            await asyncio.sleep(0.001)


def lone(checkpoint: Path, length: int, count: int) -> list[int]:
    return lone_greedy(checkpoint, prompt(length), count, stop_token_ids=()).tokens


@pytest.fixture
async def late(
    request: pytest.FixtureRequest, assembled: Assemble, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Late]:
    """With the parameter "replayed" its steps are replays of recordings."""
    device, is_replayed = LateDevice(), getattr(request, "param", "eager") == "replayed"
    if is_replayed:
        Recordings().put_in(monkeypatch)
    assembly = assembled(launch_ahead=AHEAD, kernels="cpu", max_step_tokens=16)
    assert (assembly.runner.executor.graphs is not None) == is_replayed
    device.put_in(monkeypatch)
    watched = WatchedCache(assembly.runner)
    server = WorkerServer(WorkerSettings(model="unused", port=0), assembly)
    worker = Worker(assembly, await server.start(), server)
    yield Late(worker, device, watched)
    device.let_all()
    await worker.channel.close()
    await server.stop()


async def launch(late: Late, stream: Client, commands: list[StepCommand]) -> None:
    """Send commands, and wait until all are launched."""
    count = late.device.num_launched + len(commands)
    await stream.send(*commands)
    await late.until_launched(count)


async def finish(late: Late, stream: Client, sequence_id: int, epoch: int = 1) -> None:
    """Decode one sequence to its end."""
    late.device.let_all()
    job = late.lane.jobs[sequence_id]
    while job.finish is None:
        command = late.lane.command({sequence_id: late.lane.pending(sequence_id)})
        late.take(await stream.step(replace(command, epoch=epoch)))


async def test_a_launched_step_sent_again_is_not_launched_again(
    late: Late, small_checkpoint: Path
) -> None:
    stream = late.worker.stream()
    await stream.hello()
    job = late.lane.admit(prompt(7), GREEDY)
    sent = [late.lane.command({job: 7}), *(late.lane.command({job: 1}) for _ in range(2))]
    await launch(late, stream, sent)
    await stream.send(sent[1], sent[2])
    late.device.let(3)
    reports = [await stream.receive() for _ in range(5)]
    assert [report.step for report in reports] == [1, 2, 3, 2, 3]
    assert reports[3:] == reports[1:3]
    assert late.device.num_launched == 3
    for report in reports[:3]:
        late.take(report)
    await finish(late, stream, job)
    assert late.lane.jobs[job].tokens == lone(small_checkpoint, 7, 12)
    all_is_free(late.worker.assembly.runner, late.lane)


async def test_who_comes_after_a_lost_stream_is_answered_once_its_launched_steps_are_done(
    late: Late, small_checkpoint: Path
) -> None:
    lost, successor = late.worker.stream(), late.worker.stream()
    await lost.hello()
    job = late.lane.admit(prompt(7), GREEDY)
    sent = [late.lane.command({job: 7}), *(late.lane.command({job: 1}) for _ in range(2))]
    await launch(late, lost, sent)
    lost.cancel()
    greeted = asyncio.create_task(successor.hello(epoch=2))
    late.device.let(2)
    await until(lambda: late.device.num_ended == 2)
    assert not greeted.done()
    late.device.let(1)
    reply = await greeted
    assert reply.last_step == 3
    assert [s.num_tokens for s in reply.sequences] == [7 + 3]
    for command in sent:
        late.take(await successor.step(replace(command, epoch=2)))
    assert late.device.num_launched == 3
    await finish(late, successor, job, epoch=2)
    assert late.lane.jobs[job].tokens == lone(small_checkpoint, 7, 12)


async def test_a_reset_waits_for_launched_steps_and_then_every_block_is_free(
    late: Late, small_checkpoint: Path
) -> None:
    """What was sent and not launched is dropped; what was launched is told to who asked for it."""
    old, new = late.worker.stream(), late.worker.stream()
    await old.hello()
    forgotten = late.lane.admit(prompt(7), GREEDY)
    sent = [late.lane.command({forgotten: 7})]
    sent += [late.lane.command({forgotten: 1}) for _ in range(4)]
    await launch(late, old, sent[: AHEAD + 1])
    await old.send(*sent[AHEAD + 1 :])
    await new.send(Hello(2, "new", reset=True))
    await until(lambda: late.engine._ledger.epoch == 2)
    # Superseded at once, and told what had been launched for it.
    reports = asyncio.create_task(take_all(old, AHEAD + 1))
    late.device.let(AHEAD + 1)
    assert [report.step for report in await reports] == [1, 2, 3]
    code, details = await old.refusal()
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "superseded by a" in details
    reply = await new.receive()
    assert isinstance(reply, HelloReply)
    assert (reply.last_step, reply.sequences) == (AHEAD + 1, ())
    assert late.device.num_launched == AHEAD + 1
    late.worker.lane = Lane(64, 4)
    late.lane.step = late.lane.committed = reply.last_step
    late.cache.poison(range(64))
    heir = late.lane.admit(prompt(9), GREEDY)
    await finish(late, new, heir, epoch=2)
    assert late.lane.jobs[heir].tokens == lone(small_checkpoint, 9, 12)
    all_is_free(late.worker.assembly.runner, late.lane)


async def take_all(stream: Client, count: int) -> list[StepReport]:
    return [await stream.receive() for _ in range(count)]


async def test_a_worker_that_stops_reports_what_it_has_launched_and_launches_no_more(
    late: Late,
) -> None:
    stream = late.worker.stream()
    await stream.hello()
    job = late.lane.admit(prompt(7), GREEDY)
    sent = [late.lane.command({job: 7}), *(late.lane.command({job: 1}) for _ in range(4))]
    await launch(late, stream, sent[: AHEAD + 1])
    await stream.send(*sent[AHEAD + 1 :])
    stopping = asyncio.create_task(late.worker.server.stop())
    await until(lambda: late.engine._is_draining)
    refused = late.worker.stream()
    await refused.send(Hello(2, "late"))
    assert (await refused.refusal())[0] is grpc.StatusCode.UNAVAILABLE
    late.device.let(AHEAD + 1)
    for step in range(1, AHEAD + 2):
        report = await stream.receive()
        assert (report.step, len(report.token_ids)) == (step, 1)
    assert await stream.refusal() == (grpc.StatusCode.OK, "")
    await stopping
    assert late.device.num_launched == AHEAD + 1


async def test_a_worker_that_stops_does_not_wait_for_a_device_that_hangs(
    late: Late, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker_svc.server.DRAIN_TIMEOUT_S", 0.05)
    stream = late.worker.stream()
    await stream.hello()
    job = late.lane.admit(prompt(7), GREEDY)
    await launch(late, stream, [late.lane.command({job: 7}), late.lane.command({job: 1})])
    async with asyncio.timeout(TIMEOUT_S):
        await late.worker.server.stop()
    assert (late.device.num_launched, late.device.num_ended) == (2, 0)
    assert (await stream.refusal())[0] in (
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.CANCELLED,
    )


@pytest.mark.parametrize("late", ["eager", "replayed"], indirect=True)
async def test_who_is_released_while_its_steps_are_launched_has_no_token_and_no_write_after(
    late: Late, small_checkpoint: Path
) -> None:
    stream = late.worker.stream()
    await stream.hello()
    leaves, stays = late.lane.admit(prompt(7), GREEDY), late.lane.admit(prompt(6), GREEDY)
    sent = [late.lane.command({leaves: 7, stays: 6})]
    sent += [late.lane.command({leaves: 1, stays: 1}) for _ in range(AHEAD)]
    await launch(late, stream, sent)
    owned = set(late.lane.jobs[leaves].blocks)
    await stream.send(late.lane.command({stays: 1}, release=[leaves]))
    late.device.let(AHEAD + 2)
    for _ in range(AHEAD + 1):
        report = await stream.receive()
        assert leaves in report.token_sequence_ids
        late.take(report)
    report = await stream.receive()
    assert report.token_sequence_ids == (stays,)
    assert [(i, set(blocks)) for i, blocks in report.freed] == [(leaves, owned)]
    late.take(report)
    assert not owned & late.cache.blocks_written(AHEAD + 2)
    assert late.lane.jobs[leaves].tokens == lone(small_checkpoint, 7, AHEAD + 1)
    heir = late.lane.admit(prompt(30), GREEDY)
    late.device.let_all()
    for rows in ({stays: 1, heir: 15}, {stays: 1, heir: 15}):
        late.take(await stream.step(late.lane.command(rows)))
    assert owned & set(late.lane.jobs[heir].blocks), "what was freed was given to nobody"
    await finish(late, stream, heir)
    await finish(late, stream, stays)
    assert late.lane.jobs[heir].tokens == lone(small_checkpoint, 30, 12)
    assert late.lane.jobs[stays].tokens == lone(small_checkpoint, 6, 12)
    all_is_free(late.worker.assembly.runner, late.lane)


@pytest.mark.parametrize("late", ["eager", "replayed"], indirect=True)
@pytest.mark.parametrize("is_released", [False, True])
async def test_who_ends_in_a_launched_step_writes_nothing_in_the_next_whoever_has_its_blocks(
    late: Late, small_checkpoint: Path, is_released: bool
) -> None:
    """It ends in step 2, which 3 and 4 follow before anybody knows; one step is let end."""
    stream, tokens = late.worker.stream(), lone(small_checkpoint, 7, 12)
    assert tokens[1] != tokens[0]
    await stream.hello()
    ends = late.lane.admit(prompt(7), replace(GREEDY, stop_token_ids=(tokens[1],)))
    stays = late.lane.admit(prompt(6), GREEDY)
    sent = [late.lane.command({ends: 7, stays: 6})]
    sent += [late.lane.command({ends: 1, stays: 1}) for _ in range(AHEAD)]
    await launch(late, stream, sent)
    owned = set(late.lane.jobs[ends].blocks)
    assert not owned & late.cache.blocks_written(AHEAD + 1)
    rows, release = ({stays: 1}, [ends]) if is_released else ({ends: 1, stays: 1}, [])
    await stream.send(late.lane.command(rows, release))
    late.device.let(1)
    late.take(await stream.receive())
    await late.until_launched(AHEAD + 2)
    owned |= set(late.lane.jobs[ends].blocks)
    # Its end is heard of now, and two launched steps are not.
    late.device.let(1)
    report = await stream.receive()
    assert report.finished == ((ends, FinishReason.STOP),)
    late.take(report)
    heir = late.lane.admit(prompt(40, seed=2), GREEDY)
    await stream.send(late.lane.command({heir: 15, stays: 1}))
    late.device.let_all()
    for step in (3, 4, 5):
        late.take(report := await stream.receive())
        assert report.step == step
        assert ends not in report.token_sequence_ids
        assert not set(late.lane.jobs[ends].blocks) & late.cache.blocks_written(step)
    assert late.lane.jobs[ends].tokens == tokens[:2]
    assert owned & set(late.lane.jobs[heir].blocks), "what was freed was given to nobody"
    for _ in range(2):
        rows = {heir: min(15, late.lane.pending(heir)), stays: 1}
        late.take(await stream.step(late.lane.command(rows)))
    await finish(late, stream, heir)
    await finish(late, stream, stays)
    alone = lone_greedy(small_checkpoint, prompt(40, seed=2), 12, stop_token_ids=()).tokens
    assert late.lane.jobs[heir].tokens == alone
    assert late.lane.jobs[stays].tokens == lone(small_checkpoint, 6, 12)
    all_is_free(late.worker.assembly.runner, late.lane)
