"""Whoever crashes workers is found in few crashes, and nobody else is ever convicted."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler_svc.suspects import ALONE, GUILTY, next_trial, struck

SIZES = st.one_of(st.integers(1, 12), st.sampled_from((32, 33, 64, 100, 255, 256)))
MAX_TRIALS = 10_000


@dataclass
class Court:
    """Jobs that were at a first crash. ``poisons`` crash the worker whenever they are tried."""

    poisons: set[str]
    strikes: dict[str, int]
    # How many of those that are tried a worker has places for.
    num_places: int = 10**6
    num_crashes: int = 0
    convicted: list[str] = field(default_factory=list)

    def try_next(self, *, is_killed: bool = False) -> None:
        """One trial; it ends with a crash also where something else kills the worker."""
        trial = next_trial(self.strikes)[: self.num_places]
        assert len(trial) == len(set(trial))
        assert max(self.strikes.values()) == self.strikes[trial[0]]
        if not (is_killed or self.poisons & set(trial)):
            for job_id in trial:
                del self.strikes[job_id]
            return
        self.num_crashes += not is_killed
        for job_id in trial:
            now = struck(self.strikes[job_id], is_alone=len(trial) == 1)
            assert now > self.strikes[job_id], "a crash says nothing"
            self.strikes[job_id] = now
            if now == GUILTY:
                assert len(trial) == 1, "convicted in company"
                self.convicted.append(job_id)
                del self.strikes[job_id]

    def decide(self) -> None:
        for _ in range(MAX_TRIALS):
            if not self.strikes:
                return
            self.try_next()
        raise AssertionError("no end in sight")


def court(size: int, poisons: set[int], num_places: int = 10**6) -> Court:
    ids = [f"job{i}" for i in range(size)]
    strikes = {job_id: struck(0, is_alone=size == 1) for job_id in ids}
    return Court({ids[i] for i in poisons}, strikes, num_places)


def bound(size: int) -> int:
    return math.ceil(math.log2(size)) + 2


@pytest.mark.parametrize("size", [1, 2, 3, 8, 32, 256])
def test_wherever_the_one_stands_it_is_found_within_the_bound(size: int) -> None:
    most = 0
    for position in range(size):
        tried = court(size, {position})
        tried.decide()
        assert tried.convicted == [f"job{position}"]
        most = max(most, tried.num_crashes)
    assert most == max(1, bound(size) - 1), "one less than is promised"


@given(data=st.data(), size=SIZES, num_places=st.integers(1, 300))
def test_each_of_several_costs_no_more_and_nobody_else_is_convicted(
    data: st.DataObject, size: int, num_places: int
) -> None:
    poisons = data.draw(st.sets(st.integers(0, size - 1), max_size=5))
    tried = court(size, poisons, num_places)
    tried.decide()
    assert sorted(tried.convicted) == sorted(tried.poisons)
    assert tried.num_crashes <= len(poisons) * bound(size)


@given(data=st.data(), size=SIZES)
def test_whatever_comes_between_it_ends_and_convicts_nobody_in_company(
    data: st.DataObject, size: int
) -> None:
    """Others are accused meanwhile, some end, and workers are lost for reasons of their own."""
    tried = court(size, data.draw(st.sets(st.integers(0, size - 1), max_size=3)))
    killed: set[str] = set()
    for number in range(data.draw(st.integers(0, 8))):
        match data.draw(st.sampled_from(("ends", "accused", "killed", "tried"))):
            case "ends" if tried.strikes:
                gone = data.draw(st.sampled_from(sorted(tried.strikes)))
                del tried.strikes[gone]
                tried.poisons.discard(gone)
            case "accused":
                count = data.draw(st.integers(1, 9))
                new = {f"new{number}-{i}": struck(0, is_alone=count == 1) for i in range(count)}
                tried.strikes |= new
                if data.draw(st.booleans()):
                    tried.poisons.add(min(new))
            case "killed" if tried.strikes:
                killed.update(next_trial(tried.strikes))
                tried.try_next(is_killed=True)
            case "tried" if tried.strikes:
                tried.try_next()
    tried.decide()
    assert tried.poisons <= set(tried.convicted)
    assert set(tried.convicted) - tried.poisons <= killed


def test_the_guilty_and_the_innocent_are_not_tried() -> None:
    assert next_trial({}) == []
    assert next_trial({"a": GUILTY, "b": 0}) == []
    assert next_trial({"a": GUILTY, "b": 1}) == ["b"]


def test_who_was_alone_is_tried_alone_and_first() -> None:
    assert next_trial({"a": 2, "b": ALONE, "c": ALONE, "d": 1}) == ["b"]
    assert next_trial({"a": 2, "b": 1, "c": 2, "d": 2}) == ["a", "c"]


def test_no_company_is_as_good_as_being_alone() -> None:
    strikes = 0
    for _ in range(2 * GUILTY):
        strikes = struck(strikes, is_alone=False)
    assert strikes == ALONE - 1
    assert struck(ALONE, is_alone=False) == ALONE
    assert struck(struck(strikes, is_alone=True), is_alone=True) == GUILTY
