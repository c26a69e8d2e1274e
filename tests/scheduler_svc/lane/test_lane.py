"""One lane over a real worker and a real Redis: whatever it loses, the tokens are the lone ones."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from scheduler_svc.core.events import Claim, Effect, Event, Reported, Requeue, WorkerLost
from scheduler_svc.core.scheduler import Core
from scheduler_svc.lane.lane import Lane, LeaseLost
from scheduler_svc.lane.recorder import StepRecorder
from scheduler_svc.queue import JobQueue, Order
from scheduler_svc.queue.embedded import EmbeddedRedis
from scheduler_svc.record_files import steps_path
from tests.scheduler_svc.lane.driving import NUM_TOKENS, Notes, driving, service, working
from tests.scheduler_svc.queue.build import tokens_of, within


async def test_it_gives_back_what_has_ranks_of_another_order(
    checkpoint: Path, redis_url: str, alone: tuple[int, ...]
) -> None:
    notes = Notes()
    async with service(checkpoint, redis_url) as it, working(it) as address:
        short, long = await it.submit(5), await it.submit()
        async with driving(it, address, notes) as driven:
            assert await it.ended(short) == ("length", alone[:5])
            await it.under_way(long)
            name = it.replica.card.name
            async with JobQueue(redis_url, name, order=Order(policy="fair")) as other:
                await other.adopt_order()
            assert not await driven.task
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
