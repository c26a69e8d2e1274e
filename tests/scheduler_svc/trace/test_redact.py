"""Pseudonyms are equal where a prefix cache finds prompts equal, and say nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler_svc.core.events import (
    Cancelled,
    Claimed,
    Commit,
    Effect,
    Event,
    Reported,
    Send,
    StopHit,
)
from scheduler_svc.trace.redact import Redactor, Turn
from stepserve.protocol.job import ClaimedJob
from stepserve.protocol.step import FinishReason, TokenLogprobs
from tests.scheduler_svc.core.build import INCARNATION, Lane, job, report
from tests.scheduler_svc.core.test_machine import QUIET
from tests.scheduler_svc.trace.tape import KEY

TOKENS = st.lists(st.integers(0, 2), max_size=12)


def of_tenant(claimed: ClaimedJob, tenant: str) -> ClaimedJob:
    return replace(claimed, spec=replace(claimed.spec, tenant=tenant))


class Recorded:
    """A lane of the core's tests, and the redaction of its last turn."""

    def __init__(self, *jobs: ClaimedJob, key: bytes = KEY, **changes: Any) -> None:
        self._redactor = Redactor(INCARNATION, key)
        self._lane = Lane(**changes)
        self._redactor.turn((), self._lane.effects)
        self.turn = self.tell(Claimed(jobs))

    def tell(self, *events: Event) -> Turn:
        self.turn = self._redactor.turn(events, self._lane.tell(*events))
        return self.turn

    def every(self, kind: type[Effect]) -> list[Any]:
        return [effect for effect in self.turn[1] if isinstance(effect, kind)]


def prompts(*jobs: ClaimedJob, key: bytes = KEY) -> list[Sequence[int]]:
    ((claimed,), _) = Redactor(INCARNATION, key).turn((Claimed(jobs),), ())
    assert isinstance(claimed, Claimed)
    return [each.spec.prompt_token_ids for each in claimed.jobs]


def num_alike(left: Sequence[int], right: Sequence[int]) -> int:
    pairs = zip(left, right, strict=False)
    return len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))


@settings(QUIET)
@given(TOKENS, TOKENS)
def test_they_are_alike_for_as_long_as_the_tokens_are(
    left: Sequence[int], right: Sequence[int]
) -> None:
    a, b = prompts(job("a", left), job("b", right))
    assert num_alike(a, b) == num_alike(left, right)
    assert not {*a[num_alike(a, b) :]} & {*b}, "the same token elsewhere has the same pseudonym"


def test_of_another_tenant_or_recording_all_differ() -> None:
    same = [of_tenant(job("a", (1, 2, 3)), "x"), of_tenant(job("b", (1, 2, 3)), "y")]
    ours, theirs = prompts(*same)
    (again, _) = prompts(*same, key=KEY[::-1])
    assert len({*ours, *theirs, *again}) == 9


def test_a_token_twice_has_two() -> None:
    ((first, second, third),) = prompts(job("a", (7, 7, 7)))
    assert len({first, second, third}) == 3


def test_a_prompt_that_repeats_an_output_continues_like_it() -> None:
    done, asked = prompts(job("a", (1, 2)), job("b", (1, 2, 5, 6, 9)))
    ((claimed,), _) = Redactor(INCARNATION, KEY).turn(
        (Claimed((job("c", (1, 2), outputs={0: (5, 6)}),)),), ()
    )
    assert isinstance(claimed, Claimed)
    (output,) = claimed.jobs[0].outputs
    assert (*done, *output.token_ids) == tuple(asked[:4])


def test_a_token_is_the_same_in_report_row_and_admission() -> None:
    recorded = Recorded(job("a", (1, 2, 3)))
    ((told,), _) = recorded.tell(report(1, (1, 0, 9)))
    assert isinstance(told, Reported)
    (commit,) = recorded.every(Commit)
    (token_id,) = told.report.token_ids
    assert list(commit.rows[0].token_ids) == [token_id]
    (_, asked) = prompts(job("a", (1, 2, 3)), job("b", (1, 2, 3, 9)))
    assert token_id == asked[3]
    # Reported again, it is what it was.
    ((again,), _) = recorded.tell(report(1, (1, 0, 9)))
    assert isinstance(again, Reported)
    assert list(again.report.token_ids) == [token_id]


def test_the_row_of_a_job_that_ends_in_the_same_turn_has_its_token() -> None:
    recorded = Recorded(job("a", (1, 2, 3)))
    ((told, _), _) = recorded.tell(report(1, (1, 0, 9)), Cancelled(("a",)))
    assert isinstance(told, Reported)
    (commit,) = recorded.every(Commit)
    assert list(commit.rows[0].token_ids) == list(told.report.token_ids)


def test_another_incarnations_tokens_are_not_taken_for_ours() -> None:
    recorded = Recorded(job("a", (1, 2, 3)))
    other = report(1, (1, 0, 9))
    recorded.tell(replace(other, report=replace(other.report, incarnation="other")))
    ((told,), _) = recorded.tell(report(1, (1, 0, 8)))
    assert isinstance(told, Reported)
    assert told.report.token_ids[0] == prompts(job("b", (1, 2, 3, 8)))[0][3]


def test_of_a_job_the_rest_is_dropped() -> None:
    claimed = job(
        "a",
        max_tokens=5,
        n=2,
        seed=4,
        stop=("secret",),
        stop_token_ids=(3,),
        logit_bias=((1, 0.5),),
        logprobs=2,
        prompt_logprobs=3,
        temperature=0.5,
    )
    spec = replace(claimed.spec, idempotency_key="secret", tenant="secret", priority=3)
    recorded = Recorded(replace(claimed, spec=spec, rank=1.5))
    ((told,), _) = recorded.turn
    assert isinstance(told, Claimed)
    (kept,) = told.jobs
    assert "secret" not in repr(recorded.turn)
    assert (kept.rank, kept.spec.priority, kept.spec.sampling.n) == (1.5, 3, 2)
    scored = replace(job("b").spec.sampling, prompt_logprobs=0)
    assert kept.spec.sampling == replace(scored, max_tokens=5, n=2)
    admissions = [a for send in recorded.every(Send) for a in send.command.admissions]
    assert {a.sampling.max_tokens for a in admissions} == {5}
    assert {(a.sampling.temperature, a.sampling.logprobs) for a in admissions} == {(1.0, -1)}


def test_log_probabilities_and_cuts_are_dropped() -> None:
    recorded = Recorded(job("a", stop=("x",), logprobs=0))
    logprobs = {0: TokenLogprobs(-1.0)}
    ended = report(
        1,
        (1, 0, 9),
        finished=[(1, FinishReason.STOP)],
        freed=[(1, (0,))],
        stops={1: StopHit(0, 17)},
        logprobs=logprobs,
    )
    ((told,), _) = recorded.tell(ended)
    assert isinstance(told, Reported)
    assert not told.report.logprobs
    assert told.stops == {1: StopHit(0, 0)}
    (commit,) = recorded.every(Commit)
    assert not commit.rows[0].logprobs
    assert commit.rows[0].finish.text_bytes == 0
