"""Stop strings are found in reports by the lane, for those who have some."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest

from scheduler_svc.core.events import StopHit
from scheduler_svc.lane.stop_watch import StopWatch
from scheduler_svc.text.stops import StopFinder
from scheduler_svc.text.tokenizer import Tokenizer
from stepserve.protocol.job import JobSpec
from stepserve.protocol.sampling import Sampling
from stepserve.protocol.step import Admission, StepCommand, StepReport
from tests.scheduler_svc.text.checkpoints import tokenizer_of

PROMPT = (1, 2)
IGNORED: Any = None  # What a worker is told of sampling.


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer(tokenizer_of("byte_level"))


def ids(text: str) -> list[int]:
    return tokenizer().encode(text, add_special_tokens=False)


def spec(job_id: str, *stop: str, stop_token_ids: Sequence[int] = ()) -> JobSpec:
    sampling = Sampling(20, stop=stop, stop_token_ids=tuple(stop_token_ids))
    return JobSpec(job_id, "m", PROMPT, sampling)


def watch_of(*specs: JobSpec) -> StopWatch:
    return StopWatch(tokenizer(), {each.job_id: each for each in specs})


def admit(watch: StopWatch, sequence_id: int, job_id: str, output: Sequence[int] = ()) -> None:
    token_ids = (*PROMPT, *output)
    admission = Admission(sequence_id, job_id, 0, token_ids, len(PROMPT), IGNORED)
    watch.sent(StepCommand(1, "me", 1, admissions=[admission]))


def report(*tokens: tuple[int, int, int], freed: Sequence[int] = ()) -> StepReport:
    """``tokens`` are (sequence id, offset, token id)."""
    names, offsets, token_ids = zip(*tokens, strict=True) if tokens else ((), (), ())
    blocks = [(sequence_id, ()) for sequence_id in freed]
    return StepReport("me", 1, 1, names, offsets, token_ids, freed=blocks)


def stops_in(watch: StopWatch, sequence_id: int, text: str, first: int = 0) -> list[StopHit]:
    """Report a text, token by token, and return what was found."""
    told = [
        watch.annotate(report((sequence_id, first + offset, token_id))).stops
        for offset, token_id in enumerate(ids(text))
    ]
    assert all(hits.keys() <= {sequence_id} for hits in told)
    return [hit for hits in told for hit in hits.values()]


def test_it_is_found_where_its_last_token_comes() -> None:
    watch = watch_of(spec("a", "dog"))
    admit(watch, 7, "a")
    text = "the dog"
    assert stops_in(watch, 7, text) == [StopHit(len(ids(text)) - 1, len(b"the "))]


def test_who_has_no_stop_string_is_not_searched() -> None:
    watch = watch_of(spec("a", "dog"), spec("b"))
    admit(watch, 1, "a")
    admit(watch, 2, "b")
    given = report((2, 0, ids("dog")[0]), (1, 0, ids("x")[0]))
    annotated = watch.annotate(given)
    assert (annotated.report, annotated.stops) == (given, {})
    assert stops_in(watch, 2, "a dog") == []


def test_each_of_a_step_has_its_own() -> None:
    watch = watch_of(spec("a", "x"), spec("b", "y"))
    admit(watch, 1, "a")
    admit(watch, 2, "b")
    [x], [y] = ids("x"), ids("y")
    assert watch.annotate(report((1, 0, y), (2, 0, x))).stops == {}
    assert watch.annotate(report((2, 1, y), (1, 1, x))).stops == {
        1: StopHit(1, 1),
        2: StopHit(1, 1),
    }


@pytest.mark.parametrize("prior", ["", "th", "the do"])
def test_who_comes_with_output_is_searched_from_its_beginning(prior: str) -> None:
    watch = watch_of(spec("a", "the dog"))
    before = ids(prior)
    admit(watch, 1, "a", before)
    hits = [
        hit
        for offset, char in enumerate("the dog"[len(prior) :])
        for hit in watch.annotate(report((1, len(before) + offset, *ids(char)))).stops.values()
    ]
    last = len(before) + len("the dog") - len(prior) - 1
    assert hits == [StopHit(last, 0)]


def test_a_stop_token_s_text_is_no_part_of_a_stop_string() -> None:
    [x] = ids("x")
    watch = watch_of(spec("a", "x", stop_token_ids=(x,)))
    admit(watch, 1, "a")
    assert watch.annotate(report((1, 0, x))).stops == {}


def test_who_left_is_not_searched_any_more() -> None:
    watch = watch_of(spec("a", "x"))
    admit(watch, 1, "a")
    [x] = ids("x")
    assert watch.annotate(report((1, 0, x), freed=[1])).stops == {1: StopHit(0, 0)}
    assert watch.annotate(report((1, 1, x))).stops == {}


def test_a_text_that_cannot_be_made_is_its_own_job_s_end(monkeypatch: pytest.MonkeyPatch) -> None:
    feed = StopFinder.feed

    def broken(finder: StopFinder, token_ids: Sequence[int]) -> Any:
        if list(token_ids) == ids("!"):
            raise ZeroDivisionError
        return feed(finder, token_ids)

    monkeypatch.setattr(StopFinder, "feed", broken)
    watch = watch_of(spec("a", "x"), spec("b", "y"))
    admit(watch, 1, "a")
    admit(watch, 2, "b")
    [bad], [y] = ids("!"), ids("y")
    stops = watch.annotate(report((1, 0, bad), (2, 0, y))).stops
    assert stops[1] == StopHit(
        0, -1, "its text can't be searched for stop strings: ZeroDivisionError"
    )
    assert stops[2] == StopHit(0, 0)


def test_a_model_without_a_vocabulary_has_no_text_to_search() -> None:
    watch = StopWatch(None, {"a": spec("a", "x")})
    admit(watch, 1, "a")
    assert watch.annotate(report((1, 0, 5))).stops == {}
