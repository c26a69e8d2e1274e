"""How long suspects are watched, and what ends it sooner."""

from __future__ import annotations

import pytest

from scheduler_svc.core.probation import Probation
from stepserve.protocol.job import ClaimedJob, CommitRow, Finish, OutputLog
from tests.scheduler_svc.core.build import job


def suspect(job_id: str = "a", n: int = 1) -> ClaimedJob:
    return ClaimedJob(job(job_id).spec, tuple(OutputLog(i) for i in range(n)), strikes=1)


def rows(
    count: int, index: int = 0, finish: Finish | None = None, job_id: str = "a"
) -> list[CommitRow]:
    return [CommitRow(job_id, index, 0, (7,) * count, finish=finish)]


def watched(*jobs: ClaimedJob, max_steps_in_flight: int = 2) -> Probation:
    probation = Probation(max_steps_in_flight)
    probation.begin(jobs)
    return probation


def test_it_lasts_for_two_flights_of_steps_and_one() -> None:
    probation = watched(suspect())
    probation.written(rows(4), [])
    assert probation.is_on
    assert probation.passed() == []
    probation.written(rows(1), [])
    assert not probation.is_on
    assert probation.passed() == ["a"]
    assert probation.passed() == [], "each is told once"


def test_every_output_has_to_show_it() -> None:
    probation = watched(suspect(n=2), max_steps_in_flight=1)
    probation.written(rows(9), [])
    assert probation.is_on
    probation.written(rows(0, index=1, finish=Finish("stop")), [])
    assert not probation.is_on


def test_each_shows_it_for_itself() -> None:
    probation = watched(suspect("a"), suspect("b"), job("c"))
    assert probation.job_ids == {"a", "b"}
    probation.written([*rows(5), *rows(4, job_id="b"), *rows(9, job_id="c")], [])
    assert probation.passed() == ["a"]
    assert probation.job_ids == {"b"}
    probation.written(rows(1, job_id="b"), [])
    assert probation.passed() == ["b"]
    assert not probation.is_on


def test_who_has_ended_breaks_nothing_any_more() -> None:
    probation = watched(suspect())
    probation.gone(["b"])
    assert probation.is_on
    probation.gone(["a", "b"])
    assert not probation.is_on
    assert probation.passed() == ["a"]


@pytest.mark.parametrize("finish", [None, Finish("stop")])
def test_who_is_dropped_is_watched_no_more_and_has_shown_nothing(finish: Finish | None) -> None:
    probation = watched(suspect("a"), suspect("b"))
    probation.written(rows(9, finish=finish), [("a", 0)])
    assert probation.job_ids == {"b"}
    assert probation.passed() == []
    probation.begin([suspect("a")])
    probation.written(rows(9), [])
    assert probation.passed() == ["a"], "it was claimed again, and has shown it"


def test_of_who_is_dropped_in_part_the_rest_is_watched() -> None:
    probation = watched(suspect(n=2))
    probation.written(rows(1), [("a", 0)])
    assert probation.is_on
    probation.written(rows(9, index=1), [])
    assert not probation.is_on
    assert probation.passed() == []


def test_nobody_else_is_on_probation() -> None:
    assert not watched(job("b")).is_on
