"""A slow follower costs a set of ids at most, and then hears that everything may have moved."""

from __future__ import annotations

import asyncio

import pytest

from scheduler_svc.queue import follower
from scheduler_svc.queue.follower import Follower, News


def silent() -> None:
    """Nothing has failed."""


async def test_what_moved_meanwhile_is_told_at_once_and_once() -> None:
    subject = Follower(silent, hear_moved=True)
    subject.add(["a", "b"])
    subject.add(["a"], ["c"], ["b"])
    assert await anext(subject) == News(
        frozenset("abc"), frozenset("c"), frozenset("b"), everything=False
    )
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await anext(subject)


async def test_who_does_not_hear_what_moved_hears_who_ended() -> None:
    subject = Follower(silent, hear_moved=False)
    subject.add(["a"])
    subject.add(["b"], ["c"], ["b"])
    assert await anext(subject) == News(ended=frozenset("c"))


async def test_beyond_its_bound_everything_may_have_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower, "_MAX_PENDING_IDS", 2)
    subject = Follower(silent, hear_moved=True)
    subject.add(["a", "b"], finished=["a"])
    subject.add(["c"])
    assert await anext(subject) == News(everything=True)


async def test_a_failed_reader_is_told_of() -> None:
    def failed() -> None:
        raise RuntimeError("the reader has failed")

    subject = Follower(failed, hear_moved=True)
    subject.lose_track()
    with pytest.raises(RuntimeError, match="the reader"):
        await anext(subject)
