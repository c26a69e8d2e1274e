from __future__ import annotations

from dataclasses import replace

from scheduler_svc.core.probation import Probation
from stepserve.protocol.job import ClaimedJob, CommitRow, Finish
from tests.scheduler_svc.core.build import job


def suspect(job_id: str = "a", n: int = 1) -> ClaimedJob:
    return replace(job(job_id, n=n), strikes=1)


def rows(num_tokens: int, index: int = 0, finish: Finish | None = None) -> list[CommitRow]:
    return [CommitRow("a", index, 0, (1,) * num_tokens, finish=finish)]


def test_it_lasts_for_two_flights_of_steps_and_one() -> None:
    probation = Probation(max_steps_in_flight=2)
    probation.begin([suspect()])
    probation.written(rows(4), [])
    assert probation.is_on
    probation.written(rows(1), [])
    assert not probation.is_on
    assert probation.job_id == "a"


def test_each_output_has_to_go_so_far() -> None:
    probation = Probation(max_steps_in_flight=1)
    probation.begin([suspect(n=2)])
    probation.written(rows(9), [])
    assert probation.is_on
    probation.written(rows(0, index=1, finish=Finish("stop")), [])
    assert not probation.is_on


def test_who_has_ended_breaks_nothing_any_more() -> None:
    for end in (
        lambda probation: probation.written(rows(1), [("a", 0)]),
        lambda probation: probation.gone(["a", "b"]),
    ):
        probation = Probation(max_steps_in_flight=2)
        probation.begin([suspect()])
        probation.gone(["b"])
        assert probation.is_on
        end(probation)
        assert not probation.is_on


def test_nobody_else_is_on_probation() -> None:
    probation = Probation(max_steps_in_flight=2)
    probation.begin([job("b")])
    assert not probation.is_on
