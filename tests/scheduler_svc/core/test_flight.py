from __future__ import annotations

from typing import Any

import pytest

from scheduler_svc.core.errors import ProtocolError
from scheduler_svc.core.flight import Flight, Planned
from tests.scheduler_svc.core.build import core_config


def flight(planned: int, **changes: Any) -> Flight:
    subject = Flight(core_config(first_step=11, max_steps_in_flight=2, **changes))
    for _ in range(11, planned + 1):
        subject.plan(Planned(1, ()))
    return subject


def test_there_is_room_up_to_the_depth() -> None:
    assert [flight(planned).has_room for planned in (10, 11, 12)] == [True, True, False]


def test_there_is_no_room_where_the_worker_could_not_keep_the_report() -> None:
    subject = flight(12, max_uncommitted_steps=2)
    assert subject.report(11)
    assert subject.report(12)
    assert not subject.has_room
    subject.commit(11)
    assert subject.has_room


def test_reports_are_taken_once_and_in_order() -> None:
    subject = flight(12)
    assert subject.report(11)
    assert not subject.report(11)
    assert not subject.report(10)
    assert subject.report(12)


def test_a_report_ahead_of_its_turn_is_an_error() -> None:
    with pytest.raises(ProtocolError, match="step 12 is reported, in flight are 11 to 12"):
        flight(12).report(12)


def test_a_report_of_a_step_never_sent_is_an_error() -> None:
    with pytest.raises(ProtocolError, match="step 11 is reported"):
        flight(10).report(11)


def test_what_is_committed_never_goes_back_nor_ahead() -> None:
    subject = flight(12)
    subject.report(11)
    subject.commit(11)
    subject.commit(10)
    assert subject.committed == 11
    with pytest.raises(ProtocolError, match="step 12 is committed"):
        subject.commit(12)


def test_after_abandoning_every_report_is_late() -> None:
    subject = flight(12)
    subject.abandon()
    assert subject.num_in_flight == 0
    assert not subject.report(12)
