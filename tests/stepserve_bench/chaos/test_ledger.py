"""What clients are told wrong is found: each way to be wrong has its word."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from stepserve import Completion, SamplingParams
from stepserve import Output as StoredOutput
from stepserve.protocol.inference import StreamEvent, Usage
from stepserve.protocol.job import Finish
from stepserve_bench.chaos.jobs import ChaosJob, Output, draw_jobs
from stepserve_bench.chaos.ledger import Ledger

JOB = ChaosJob(0, (1, 2), SamplingParams(max_tokens=4), "")
RIGHT = [10, 11, 12, 13]


class Right:
    def outputs(self, _: ChaosJob) -> Sequence[Output]:
        return [(RIGHT, "length")]


def told(offset: int, *tokens: int, reason: str = "", job_id: str = "j") -> StreamEvent:
    finish, text = Finish(reason) if reason else None, "b" if reason else "a" * (offset == 0)
    return StreamEvent(job_id, offset=offset, token_ids=tokens, text=text, finish=finish)


def stored(tokens: Sequence[int], text: str) -> Completion:
    return Completion("j", (StoredOutput(0, text, tuple(tokens), "length"),), Usage(2, len(tokens)))


GOOD = (told(0, 10, 11), told(2, 12, 13), told(4, reason="length"))
WRONG = {
    "lost": GOOD[:2],
    "contradicted": (told(0, 10, 99), *GOOD[1:]),
    "repeated": (GOOD[0], GOOD[0], *GOOD[1:]),
    "skipped": (GOOD[0], *GOOD[2:], told(6, 7)),
    "of another length": (GOOD[0], GOOD[2]),
    "of another end": (*GOOD[:2], told(4, reason="stop")),
    "after its end": (*GOOD, told(4, 14)),
    "ended twice": (*GOOD, told(4, reason="error")),
    "another's": (*GOOD, told(0, 10, job_id="k")),
}


def kinds_after(events: Sequence[StreamEvent]) -> set[str]:
    ledger = Ledger()
    entry = ledger.accept("j", JOB)
    for event in events:
        ledger.see(entry, event, 0.0)
    ledger.check(Right())
    return {problem.partition(":")[0] for problem in ledger.problems}


def test_what_is_right_is_not_complained_of() -> None:
    assert kinds_after(GOOD) == set()
    # Who comes back is told again how an output ended.
    assert kinds_after((*GOOD, GOOD[2])) == set()
    ledger = Ledger()
    entry = ledger.accept("j", JOB)
    for event in (*GOOD, GOOD[2]):
        ledger.see(entry, event, 0.0)
    ledger.check_stored(stored(RIGHT, "ab"))
    assert ledger.problems == []


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_wrong_is(kind: str) -> None:
    assert kind in kinds_after(WRONG[kind])


@pytest.mark.parametrize(
    ("check", "problem"),
    [
        (lambda ledger: ledger.accept("j", JOB), "accepted twice"),
        (lambda ledger: ledger.check_known([]), "forgotten"),
        (lambda ledger: ledger.check_known(["j", "k"]), "of nobody"),
        (lambda ledger: ledger.check_stored(stored(RIGHT[:3], "ab")), "stored otherwise"),
        (
            lambda ledger: ledger.check_stored(stored(RIGHT, "ac")),
            "stored otherwise than told: text",
        ),
        (lambda ledger: ledger.fail("submit", ValueError("no")), "client error"),
    ],
)
def test_so_is_what_others_find(check: Callable[[Ledger], None], problem: str) -> None:
    ledger = Ledger()
    entry = ledger.accept("j", JOB)
    for event in GOOD:
        ledger.see(entry, event, 0.0)
    check(ledger)
    assert [found.startswith(problem) for found in ledger.problems] == [True]


def test_jobs_are_of_many_kinds() -> None:
    jobs = draw_jobs(1, 90)
    drawn = [next(jobs) for _ in range(200)]
    assert {job.n for job in drawn} == {1, 2}
    assert {bool(job.sampling.temperature) for job in drawn} == {True, False}
    assert {bool(job.sampling.stop_token_ids) for job in drawn} == {True, False}
    assert all(30 <= (job.sampling.max_tokens or 0) <= 90 for job in drawn)
