"""A worker changes hands with what it holds: nothing is computed twice, whatever was on its way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scheduler_svc.lane.worker_stream import WorkerStream
from scheduler_svc.queue import Fenced, JobQueue, Lease, QueueLimits, RowAnswer
from stepserve.protocol.errors import Unavailable
from stepserve.protocol.job import CommitRow
from stepserve.protocol.step import Hello, HelloReply
from tests.scheduler_svc.lane.driving import (
    NUM_TOKENS,
    PROMPT,
    Notes,
    Service,
    acquired,
    driving,
    service,
    working,
)
from tests.scheduler_svc.queue.build import tokens_of, within

# Steps that are reported and not committed: fewer than a lane pauses at.
NUM_UNCOMMITTED = 20
NUM_COMMITTED = 3


@pytest.fixture
async def it(checkpoint: Path, redis_url: str) -> AsyncIterator[Service]:
    async with service(checkpoint, redis_url) as it:
        yield it


@pytest.fixture
async def address(it: Service) -> AsyncIterator[str]:
    async with working(it) as address:
        yield address


def check_computed_once(num_tokens: int, *notes: Notes) -> None:
    """Each token of one job went through the layers once; the last one never does."""
    steps = {step: count for each in notes for step, count in each.num_positions.items()}
    assert sum(steps.values()) == len(PROMPT) + num_tokens - 1
    assert list(steps) == list(range(1, len(steps) + 1)), "a step is missing"


@asynccontextmanager
async def uncommitted(it: Service, patch: pytest.MonkeyPatch, after: int) -> AsyncIterator[None]:
    """So many commits come and are answered; those after them do not come, nor are answered."""
    commit, num_let_through = it.queue.commit, 0

    async def held(lease: Lease, rows: Sequence[CommitRow], *more: Any) -> list[RowAnswer]:
        nonlocal num_let_through
        if num_let_through == after:
            await asyncio.Event().wait()
        num_let_through += 1
        return await commit(lease, rows, *more)

    with patch.context() as patched:
        patched.setattr(it.queue, "commit", held)
        yield


async def reported(notes: Notes, count: int) -> None:
    async with within(60):
        while len(notes.num_positions) < count:
            await asyncio.sleep(0.005)


async def test_reports_that_nobody_committed_are_committed_by_the_next(
    it: Service, address: str, alone: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = Notes(), Notes()
    held = uncommitted(it, monkeypatch, NUM_COMMITTED)
    async with held, driving(it, address, first, dies=True):
        job_id = await it.submit()
        await reported(first, NUM_COMMITTED + NUM_UNCOMMITTED)
        given = await tokens_of(it.queue, job_id)
    async with driving(it, address, second) as driven:
        assert driven.taken.adoption is not None
        assert driven.taken.reply.num_kept_reports >= NUM_UNCOMMITTED
        assert await it.ended(job_id) == ("length", alone)
    assert len(given) + NUM_UNCOMMITTED <= len(alone)
    check_computed_once(NUM_TOKENS, first, second)


async def test_a_commit_whose_answer_was_lost_is_not_written_again(
    it: Service, address: str, alone: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, commit = Notes(), Notes(), it.queue.commit

    async def deaf(lease: Lease, rows: Sequence[CommitRow], *more: Any) -> list[RowAnswer]:
        await commit(lease, rows, *more)
        if len(first.num_positions) > 5:
            raise Unavailable("the answer was lost")
        return []

    with monkeypatch.context() as patched:
        patched.setattr(it.queue, "commit", deaf)
        async with driving(it, address, first, dies=True):
            job_id = await it.submit()
            await reported(first, NUM_UNCOMMITTED)
    async with driving(it, address, second) as driven:
        # All but the first are in the log, and the worker was told of none.
        assert driven.taken.reply.num_kept_reports > 0
        assert await it.ended(job_id) == ("length", alone)
    check_computed_once(NUM_TOKENS, first, second)


async def test_who_dies_between_the_epoch_and_the_hello_leaves_all_as_it_was(
    it: Service, address: str, alone: tuple[int, ...]
) -> None:
    first, last = Notes(), Notes()
    async with driving(it, address, first, dies=True) as driven:
        job_id = await it.submit()
        await it.under_way(job_id)
    between = await acquired(it, address, driven.taken.reply.info.incarnation)
    assert between.num_inherited == 1
    with pytest.raises(Fenced):
        await it.queue.claimed(driven.lease)
    async with driving(it, address, last) as driven:
        assert driven.lease.epoch > between.epoch
        assert await it.ended(job_id) == ("length", alone)
    check_computed_once(NUM_TOKENS, first, last)


async def test_who_dies_in_the_middle_of_a_hand_over_costs_nothing(
    it: Service, address: str, alone: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = Notes(), Notes(), Notes()
    async with driving(it, address, first) as leaving:
        job_id = await it.submit()
        await it.under_way(job_id)
    assert await leaving.task, "it leaves the worker as it is"
    assert await it.queue.num_queued() == 0
    assert await it.queue.workers() == [], "nobody drives it"
    # It greets, adopts and plans on, and nothing of that comes to Redis.
    async with uncommitted(it, monkeypatch, 0), driving(it, address, second, dies=True):
        await reported(second, NUM_UNCOMMITTED)
    async with driving(it, address, third):
        assert await it.ended(job_id) == ("length", alone)
    check_computed_once(NUM_TOKENS, first, second, third)


async def test_a_sequence_that_the_worker_ended_meanwhile_ends(
    it: Service, address: str, alone: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = Notes(), Notes()
    held = uncommitted(it, monkeypatch, 0)
    async with held, driving(it, address, first, dies=True) as driven:
        job_id = await it.submit(NUM_UNCOMMITTED)
        await reported(first, NUM_UNCOMMITTED)
    assert await tokens_of(it.queue, job_id) == ()
    async with driving(it, address, second) as driven:
        adoption = driven.taken.adoption
        assert adoption is not None
        assert (len(adoption.event.kept), len(adoption.event.departed)) == (0, 1)
        assert await it.ended(job_id) == ("length", alone[:NUM_UNCOMMITTED])
        assert driven.lane._core.num_free_blocks == driven.taken.config.num_blocks
    check_computed_once(NUM_UNCOMMITTED, first, second)


async def test_what_ended_while_nobody_drove_is_released(
    it: Service, address: str, alone: tuple[int, ...]
) -> None:
    async with driving(it, address, dies=True):
        victim, other = await it.submit(400), await it.submit()
        await it.under_way(victim)
        await it.under_way(other)
    assert await it.queue.cancel(victim)
    async with driving(it, address) as driven:
        assert await it.ended(other) == ("length", alone)
        assert driven.lane._core.counts.num_adopted_sequences == 1
        async with within():
            while driven.lane._core.num_free_blocks < driven.taken.config.num_blocks:
                await asyncio.sleep(0.005)
    assert (await it.ended(victim))[0] == "cancelled"


async def test_a_stop_string_is_found_in_the_reports_that_were_kept(
    it: Service, address: str, alone: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = it.replica.card.tokenizer
    assert tokenizer is not None
    # Its beginning is in the log, its end is not.
    text = tokenizer.decode(list(alone[:14]))
    stop = text[-4:]
    async with driving(it, address):
        plain = await it.ended(await it.submit(NUM_UNCOMMITTED, stop=(stop,)))
    assert plain[0] == "stop"
    async with (
        uncommitted(it, monkeypatch, NUM_COMMITTED),
        driving(it, address, dies=True) as driven,
    ):
        job_id = await it.submit(NUM_UNCOMMITTED, stop=(stop,))
        await it.under_way(job_id)
        async with within(60):
            while driven.lane._core.job_ids:
                await asyncio.sleep(0.005)
    assert len(await tokens_of(it.queue, job_id)) < len(plain[1])
    async with driving(it, address) as driven:
        assert driven.taken.adoption is not None
        assert await it.ended(job_id) == plain
        assert driven.lane._core.counts.num_computed_tokens == 0


async def test_a_worker_that_began_anew_has_nothing_to_adopt(
    it: Service, alone: tuple[int, ...]
) -> None:
    async with AsyncExitStack() as first:
        address = await first.enter_async_context(working(it))
        async with driving(it, address, dies=True):
            job_id = await it.submit()
            await it.under_way(job_id)
            await first.aclose()
    lease = await acquired(it, address, "another life")
    assert lease.num_inherited == 0
    assert await it.queue.num_queued() == 1
    async with working(it) as address, driving(it, address) as driven:
        assert driven.taken.adoption is None
        assert await it.ended(job_id) == ("length", alone)


async def test_a_lane_and_its_worker_that_die_together_take_only_what_nobody_saw(
    it: Service, redis_url: str, alone: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reports are on their way, and the worker never comes back: nobody can be asked for them."""
    first, second = Notes(), Notes()
    async with (
        working(it) as address,
        uncommitted(it, monkeypatch, NUM_COMMITTED),
        driving(it, address, first, dies=True) as driven,
    ):
        job_id = await it.submit()
        await reported(first, NUM_COMMITTED + NUM_UNCOMMITTED)
    # The lease as it is when its time is over.
    incarnation = driven.taken.reply.info.incarnation
    assert await it.queue.acquire(address, it.replica.holder, 1, incarnation=incarnation)
    given = await tokens_of(it.queue, job_id)
    at_once = QueueLimits(lease_grace_s=0.0)
    async with within(60), JobQueue(redis_url, it.replica.card.name, at_once) as sweeping:
        while (await sweeping.sweep()).num_given_up == 0:
            await asyncio.sleep(0.02)
    assert await it.queue.num_queued() == 1
    async with working(it) as elsewhere, driving(it, elsewhere, second):
        assert await it.ended(job_id) == ("length", alone)
    assert 0 < len(given) <= len(alone) - NUM_UNCOMMITTED
    assert given == alone[: len(given)]
    # Of the new worker it is the first computation.
    check_computed_once(NUM_TOKENS, second)


async def test_a_worker_that_contradicts_itself_is_reset(
    it: Service,
    address: str,
    alone: tuple[int, ...],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with driving(it, address, dies=True):
        job_id = await it.submit()
        await it.under_way(job_id)
    greet = WorkerStream.open

    async def lying(stream: WorkerStream, hello: Hello) -> HelloReply:
        reply = await greet(stream, hello)
        return replace(reply, last_step=reply.last_step + 1) if hello.wants_reports else reply

    monkeypatch.setattr(WorkerStream, "open", lying)
    async with driving(it, address) as driven:
        assert driven.taken.adoption is None
        assert "can't be taken over" in caplog.text
        assert await it.ended(job_id) == ("length", alone)
