"""One lane over a real worker and a real Redis: whatever it loses, the tokens are the lone ones."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import pytest

from scheduler_svc.core.events import Claim, Effect, Event, Reported, Requeue, WorkerLost
from scheduler_svc.core.scheduler import Core
from scheduler_svc.fleet.hold import worker_stream
from scheduler_svc.lane.core_config import core_config
from scheduler_svc.lane.lane import Lane, LeaseLost
from scheduler_svc.lane.recorder import StepRecorder
from scheduler_svc.lane.replica import Replica
from scheduler_svc.lane.turns import TurnObserver
from scheduler_svc.queue import JobQueue, JobSnapshot, Lease
from scheduler_svc.queue.embedded import EmbeddedRedis
from scheduler_svc.record_files import steps_path
from scheduler_svc.settings import SchedulerSettings
from scheduler_svc.text.model_card import ModelCard
from stepserve.protocol.job import JobSpec
from stepserve.protocol.sampling import Sampling
from stepserve.protocol.step import Hello
from tests.checkpoints import add_tokenizer, lone_greedy, make_checkpoint
from tests.e2e.stack import worker
from tests.scheduler_svc.queue.build import tokens_of, within

PROMPT = (5, 6, 7)
NUM_TOKENS = 120
Turn = tuple[Sequence[Event], Sequence[Effect]]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("lane") / "llama"
    return add_tokenizer(make_checkpoint(directory, "llama", dtype="float64"), 257)


@pytest.fixture(scope="module")
def alone(checkpoint: Path) -> tuple[int, ...]:
    """What the job gives alone: exactly, in float64."""
    return tuple(lone_greedy(checkpoint, PROMPT, NUM_TOKENS, "float64", ()).tokens)


@dataclass(frozen=True, slots=True)
class Service:
    """A queue of its own, and what its lanes are made of."""

    checkpoint: Path
    replica: Replica

    @property
    def queue(self) -> JobQueue:
        return self.replica.queue

    async def submit(self, max_tokens: int = NUM_TOKENS) -> str:
        sampling = Sampling(max_tokens=max_tokens, temperature=0.0, ignore_eos=True)
        spec = JobSpec(uuid4().hex, self.replica.card.name, PROMPT, sampling)
        return (await self.queue.submit(spec)).job_id

    async def job(self, job_id: str) -> JobSnapshot:
        job = await self.queue.job(job_id)
        assert job is not None
        return job

    async def ended(self, job_id: str) -> tuple[str, tuple[int, ...]]:
        """Wait until it has ended; return why, and its tokens."""
        async with within(60):
            while (job := await self.job(job_id)).state != "ended":
                await asyncio.sleep(0.01)
        [output] = job.outputs
        assert output.finish is not None
        return output.finish.reason, await tokens_of(self.queue, job_id)

    async def under_way(self, job_id: str) -> None:
        async with within(60):
            while (await self.job(job_id)).outputs[0].num_tokens < 3:
                await asyncio.sleep(0.005)


@asynccontextmanager
async def service(checkpoint: Path, redis_url: str) -> AsyncIterator[Service]:
    name = f"lane-{uuid4().hex[:8]}"
    settings = SchedulerSettings(model=str(checkpoint), redis_url=redis_url)
    async with JobQueue(redis_url, name) as queue:
        await queue.adopt_order()
        card = ModelCard.load(checkpoint, name)
        yield Service(checkpoint, Replica(queue, card, settings, "me"))


@asynccontextmanager
async def working(of: Service) -> AsyncIterator[str]:
    """A worker's address."""
    async with worker(of.checkpoint, of.replica.card.name, dtype="float64") as address:
        yield address


@dataclass(frozen=True, slots=True)
class Driven:
    """A lane that runs, under its lease; ``stop`` asks it to hand over."""

    lane: Lane
    lease: Lease
    task: asyncio.Task[None]
    stop: asyncio.Event


@asynccontextmanager
async def driving(of: Service, address: str, *observers: TurnObserver) -> AsyncIterator[Driven]:
    replica = of.replica
    async with worker_stream(address, replica.settings) as stream:
        ttl_ms = int(1000 * replica.settings.lease_ttl_s)
        lease = await of.queue.acquire(address, replica.holder, ttl_ms)
        assert lease is not None
        reply = await stream.open(Hello(lease.epoch, replica.holder, reset=True))
        config = core_config(lease, reply, replica.settings)
        lane, stop = Lane(replica, lease, stream, reply, config, observers), asyncio.Event()
        task = asyncio.create_task(lane.run(stop))
        try:
            yield Driven(lane, lease, task, stop)
        finally:
            stop.set()
            await asyncio.gather(task, return_exceptions=True)
            await of.queue.release(lease)


@dataclass
class Notes:
    """An observer that keeps every turn."""

    turns: list[Turn] = field(default_factory=list)

    def observe(self, events: Sequence[Event], effects: Sequence[Effect], _: Core, /) -> None:
        self.turns.append((tuple(events), tuple(effects)))


async def test_it_gives_back_what_it_was_asked_to_stop_in(
    checkpoint: Path, redis_url: str, alone: tuple[int, ...]
) -> None:
    notes = Notes()
    async with service(checkpoint, redis_url) as it, working(it) as address:
        short, long = await it.submit(5), await it.submit()
        async with driving(it, address, notes) as driven:
            assert await it.ended(short) == ("length", alone[:5])
            await it.under_way(long)
            driven.stop.set()
            await driven.task
            assert await it.queue.claimed(driven.lease) == frozenset()
            assert await it.queue.num_queued() == 1
            assert [w.epoch for w in await it.queue.workers()] == [driven.lease.epoch]
        given = await tokens_of(it.queue, long)
        assert 3 <= len(given) < NUM_TOKENS
        assert given == alone[: len(given)]
        async with driving(it, address):
            assert await it.ended(long) == ("length", alone)
    (first, wanted), (last, given_back) = notes.turns[0], notes.turns[-1]
    assert (first, [type(effect) for effect in wanted]) == ((), [Claim])
    assert last[-1] == WorkerLost()
    assert Requeue((long,)) in given_back


async def test_whoever_lost_its_lease_writes_nothing_more(
    checkpoint: Path, redis_url: str, alone: tuple[int, ...]
) -> None:
    async with service(checkpoint, redis_url) as it, working(it) as address:
        job_id = await it.submit()
        async with driving(it, address) as driven:
            await it.under_way(job_id)
            usurper = await it.queue.acquire(address, it.replica.holder, 60_000)
            assert usurper is not None
            given = await tokens_of(it.queue, job_id)
            with pytest.raises(LeaseLost, match="taken over"):
                await driven.task
            assert await tokens_of(it.queue, job_id) == given
            assert await it.queue.num_queued() == 1
        assert [w.epoch for w in await it.queue.workers()] == [usurper.epoch], "not ours to release"
        async with driving(it, address):
            assert await it.ended(job_id) == ("length", alone)


async def test_a_worker_that_is_gone_takes_no_job_along(
    checkpoint: Path, redis_url: str, alone: tuple[int, ...]
) -> None:
    async with service(checkpoint, redis_url) as it, AsyncExitStack() as first:
        address = await first.enter_async_context(working(it))
        job_id = await it.submit()
        async with driving(it, address) as driven:
            await it.under_way(job_id)
            await first.aclose()
            await driven.task
            assert await it.queue.num_queued() == 1
        given = await tokens_of(it.queue, job_id)
        assert given == alone[: len(given)]
        async with working(it) as another, driving(it, another):
            assert await it.ended(job_id) == ("length", alone)


async def test_redis_may_go_and_come_back(
    checkpoint: Path, tmp_path: Path, alone: tuple[int, ...]
) -> None:
    with EmbeddedRedis.start(tmp_path) as redis:
        async with service(checkpoint, redis.url) as it, working(it) as address:
            job_id = await it.submit()
            async with driving(it, address) as driven:
                await it.under_way(job_id)
                assert redis.pid is not None
                os.kill(redis.pid, signal.SIGTERM)
                async with within():
                    while not await asyncio.to_thread(redis.ensure_running):
                        await asyncio.sleep(0.01)
                assert await it.ended(job_id) == ("length", alone)
                assert not driven.task.done()
                assert [w.epoch for w in await it.queue.workers()] == [driven.lease.epoch]


async def test_a_cancelled_job_leaves_and_nothing_of_it_is_kept(
    checkpoint: Path, redis_url: str, alone: tuple[int, ...]
) -> None:
    async with service(checkpoint, redis_url) as it, working(it) as address:
        victim, other = await it.submit(400), await it.submit()
        async with driving(it, address) as driven:
            await it.under_way(victim)
            assert await it.queue.cancel(victim)
            assert await it.ended(other) == ("length", alone)
            async with within():
                while driven.lane._held.ids:
                    await asyncio.sleep(0.01)
            reason, given = await it.ended(victim)
        assert reason == "cancelled"
        assert given[:NUM_TOKENS] == alone[: len(given)]


async def test_a_turn_that_raises_is_told_and_its_jobs_are_suspects(
    checkpoint: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch, alone: tuple[int, ...]
) -> None:
    handle, notes = Core.handle, Notes()

    class Brittle:
        """Fails in the very turn in which the core does."""

        def observe(self, _: Sequence[Event], effects: Sequence[Effect], __: Core, /) -> None:
            if not effects:
                raise OSError(28, "No space left on device")

    def broken(core: Core, events: Sequence[Event]) -> list[Effect]:
        if any(isinstance(event, Reported) and event.report.step == 4 for event in events):
            raise ZeroDivisionError("it broke here")
        return handle(core, events)

    async with service(checkpoint, redis_url) as it, working(it) as address:
        with monkeypatch.context() as patched:
            patched.setattr(Core, "handle", broken)
            job_id = await it.submit()
            async with driving(it, address, Brittle(), notes) as driven:
                with pytest.raises(ZeroDivisionError, match="it broke here"):
                    await driven.task
        events, effects = notes.turns[-1]
        assert any(isinstance(event, Reported) and event.report.step == 4 for event in events)
        assert effects == ()
        # What was reported before is written, and the job goes on from there.
        assert await tokens_of(it.queue, job_id) == alone[:3]
        async with driving(it, address):
            assert await it.ended(job_id) == ("length", alone)


async def test_a_recorder_whose_disk_is_full_costs_nothing_but_the_record(
    checkpoint: Path,
    redis_url: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    alone: tuple[int, ...],
) -> None:
    notes = Notes()
    steps_path(tmp_path, "full").symlink_to("/dev/full")
    async with service(checkpoint, redis_url) as it, working(it) as address:
        job_id = await it.submit()
        with StepRecorder(tmp_path, "full") as recorder:
            async with driving(it, address, recorder, notes) as driven:
                assert await it.ended(job_id) == ("length", alone)
                assert not driven.task.done()
    assert caplog.text.count("StepRecorder failed") == 1
    told = [type(event) for events, _ in notes.turns for event in events]
    assert told.count(Reported) >= NUM_TOKENS, "who stands beside it is told of all"


async def test_a_turn_is_told_of_once_it_is_performed(
    checkpoint: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    perform = Lane._perform
    performed: list[Effect] = []
    late: list[Effect] = []

    def noted(lane: Lane, effect: Effect) -> None:
        perform(lane, effect)
        performed.append(effect)

    class Watching:
        def observe(self, _: Sequence[Event], effects: Sequence[Effect], __: Core, /) -> None:
            here = {id(effect) for effect in performed}
            late.extend(effect for effect in effects if id(effect) not in here)

    monkeypatch.setattr(Lane, "_perform", noted)
    async with service(checkpoint, redis_url) as it, working(it) as address:
        job_id = await it.submit(5)
        async with driving(it, address, Watching()):
            await it.ended(job_id)
            num_performed = len(performed)
            assert late == []
    assert num_performed > 5
