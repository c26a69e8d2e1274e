"""Who is looked at when; the clock is a number here."""

from __future__ import annotations

import math

from scheduler_svc.frontend.due import Due


def test_after_a_silence_nothing_waits() -> None:
    due: Due[str] = Due(5.0)
    assert due.wait_s(100.0) == math.inf
    due.add({"a"}, at_once=False)
    assert due.wait_s(100.0) == 0.0
    assert due.take(100.0) == (set(), {"a"})


def test_what_comes_within_a_window_is_taken_together() -> None:
    due: Due[str] = Due(5.0)
    due.begin_window(100.0, 0.0)
    for name in ("a", "b", "a"):
        due.add({name}, at_once=False)
    assert due.wait_s(101.0) == 4.0
    assert due.take(101.0) == (set(), None)
    assert due.take(105.0) == (set(), {"a", "b"})
    assert due.take(105.0) == (set(), set())


def test_what_is_due_at_once_passes_the_others() -> None:
    due: Due[str] = Due(5.0)
    due.begin_window(100.0, 0.0)
    due.add({"late"}, at_once=False)
    due.add({"both"}, at_once=False)
    due.add({"both"}, at_once=True)
    assert due.wait_s(101.0) == 0.0
    assert due.take(101.0) == ({"both"}, None)
    assert due.wait_s(101.0) == 4.0
    assert due.take(105.0) == (set(), {"late"})


def test_a_call_can_be_taken_back() -> None:
    due: Due[str] = Due(5.0)
    for at_once in (True, False):
        due.add({"a"}, at_once)
    due.discard("a")
    assert due.take(100.0) == (set(), set())


def test_the_window_is_longer_where_much_was_spent_on_the_last_one() -> None:
    due: Due[str] = Due(5.0)
    due.add({"a"}, at_once=False)
    for spent_s, end_s in ((0.0, 105.0), (2.0, 105.0), (10.0, 120.0)):
        due.begin_window(100.0, spent_s)
        assert due.wait_s(100.0) == end_s - 100.0


def test_a_window_of_nothing_never_makes_wait() -> None:
    due: Due[str] = Due(0.0)
    due.begin_window(100.0, 10.0)
    due.add({"a"}, at_once=False)
    assert due.wait_s(100.0) == 0.0
    assert due.take(100.0) == (set(), {"a"})


def test_only_what_is_due_sooner_than_before_calls_for_a_look() -> None:
    due: Due[str] = Due(5.0)
    assert not due.add((), at_once=False)
    assert due.add({"a"}, at_once=False)
    assert not due.add({"b"}, at_once=False)
    assert due.add({"b"}, at_once=True)
    assert not due.add({"c"}, at_once=True)
    assert not due.add({"d"}, at_once=False)
    assert due.take(100.0) == ({"b", "c"}, {"a", "d"})
