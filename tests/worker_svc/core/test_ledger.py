"""A step is executed at most once, and only for the one who may command it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepserve.protocol.errors import StepRefused
from stepserve.protocol.step import Hello, StepCommand, StepReport
from worker_svc.core.ledger import Ledger


def command(step: int, committed: int = 0, epoch: int = 5) -> StepCommand:
    return StepCommand(epoch=epoch, incarnation="me", step=step, committed_step=committed)


def execute(ledger: Ledger, step: int, committed: int = 0, epoch: int = 5) -> StepReport:
    assert ledger.kept_report(command(step, committed, epoch)) is None
    report = StepReport("me", epoch, step, duration_us=step)
    ledger.begin(step)
    ledger.record(report)
    ledger.forget(committed)
    return report


def num_kept(ledger: Ledger) -> int:
    return len(ledger._reports)


@pytest.fixture
def ledger() -> Ledger:
    ledger = Ledger("me", max_kept_reports=3)
    ledger.greet(Hello(epoch=5, lane="a"))
    return ledger


def refused(ledger: Ledger, command: StepCommand, reason: str) -> None:
    before = (ledger.epoch, ledger.last_step, num_kept(ledger))
    with pytest.raises(StepRefused, match=reason):
        ledger.kept_report(command)
    assert (ledger.epoch, ledger.last_step, num_kept(ledger)) == before


def test_a_step_sent_again_is_answered_again(ledger: Ledger) -> None:
    first, second = execute(ledger, 1), execute(ledger, 2)
    assert ledger.kept_report(command(1)) is first
    assert ledger.kept_report(command(2)) is second
    assert ledger.last_step == 2


def test_a_step_that_is_being_computed_counts_as_begun_and_not_as_executed(ledger: Ledger) -> None:
    execute(ledger, 1)
    ledger.begin(2)
    ledger.begin(3)
    refused(ledger, command(3), "forgotten")
    refused(ledger, command(4, committed=2), "never executed")
    refused(ledger, command(4), "3 reports are kept")
    assert ledger.kept_report(command(4, committed=1)) is None
    report = StepReport("me", 5, 2)
    ledger.record(report)
    assert ledger.kept_report(command(2)) is report


def test_committed_reports_are_forgotten(ledger: Ledger) -> None:
    execute(ledger, 1)
    second = execute(ledger, 2)
    execute(ledger, 3, committed=1)
    assert num_kept(ledger) == 2
    refused(ledger, command(1), "forgotten")
    assert ledger.kept_report(command(2)) is second


def test_a_gap_is_refused(ledger: Ledger) -> None:
    execute(ledger, 1)
    refused(ledger, command(3), "gap: step 3, the next is 2")


def test_other_epochs_are_refused(ledger: Ledger) -> None:
    refused(ledger, command(1, epoch=4), "stale epoch 4")
    refused(ledger, command(1, epoch=6), "unannounced epoch 6")


def test_another_incarnation_is_refused(ledger: Ledger) -> None:
    refused(ledger, replace(command(1), incarnation="other"), "incarnation 'other'")
    with pytest.raises(StepRefused, match="incarnation 'other'"):
        ledger.greet(Hello(epoch=9, lane="b", incarnation="other"))
    assert ledger.epoch == 5


def test_a_commit_of_what_was_never_executed_is_refused(ledger: Ledger) -> None:
    execute(ledger, 1)
    refused(ledger, command(2, committed=2), "never executed")


def test_no_more_reports_than_agreed_are_kept(ledger: Ledger) -> None:
    for step in (1, 2, 3):
        execute(ledger, step)
    refused(ledger, command(4), "3 reports are kept")
    execute(ledger, 4, committed=1)
    assert num_kept(ledger) == 3


def test_a_lower_epoch_may_not_greet_and_an_equal_one_may(ledger: Ledger) -> None:
    with pytest.raises(StepRefused, match="stale epoch 4"):
        ledger.greet(Hello(epoch=4, lane="b"))
    ledger.greet(Hello(epoch=5, lane="a", incarnation="me"))
    ledger.greet(Hello(epoch=8, lane="b"))
    assert ledger.epoch == 8
    refused(ledger, command(1), "stale epoch 5")


def test_another_protocol_version_is_refused(ledger: Ledger) -> None:
    with pytest.raises(StepRefused, match="protocol version 2"):
        ledger.greet(Hello(epoch=9, lane="b", protocol_version=2))
    assert ledger.epoch == 5


def test_a_report_outlives_the_epoch_it_was_made_in(ledger: Ledger) -> None:
    report = execute(ledger, 1)
    ledger.greet(Hello(epoch=6, lane="b"))
    assert ledger.kept_report(command(1, epoch=6)) is report
    execute(ledger, 2, epoch=6)


def test_after_a_reset_step_numbers_go_on(ledger: Ledger) -> None:
    execute(ledger, 1)
    ledger.reset()
    assert (ledger.last_step, num_kept(ledger)) == (1, 0)
    refused(ledger, command(1), "forgotten")
    execute(ledger, 2)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 8), st.integers(0, 8)), max_size=30))
def test_every_step_is_executed_once_and_in_order(asked: list[tuple[int, int]]) -> None:
    ledger = Ledger("me", max_kept_reports=3)
    ledger.greet(Hello(epoch=5, lane="a"))
    executed: list[int] = []
    for step, committed in asked:
        try:
            report = ledger.kept_report(command(step, committed))
        except StepRefused:
            continue
        if report is None:
            executed.append(step)
            ledger.begin(step)
            ledger.record(StepReport("me", 5, step))
        else:
            assert report.step == step
            assert step in executed
        ledger.forget(committed)
        assert num_kept(ledger) <= 3
    assert executed == list(range(1, len(executed) + 1))


def test_kept_reports_are_told_in_order_once_they_are_there(ledger: Ledger) -> None:
    first, second = execute(ledger, 1), execute(ledger, 2)
    assert ledger.kept_reports() == (first, second)
    ledger.begin(3)
    assert ledger.kept_reports() == (first, second)
    ledger.forget(1)
    assert ledger.kept_reports() == (second,)
    ledger.reset()
    assert ledger.kept_reports() == ()
