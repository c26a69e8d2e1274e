"""Stop strings: one answer for each sequence of tokens, and no text of them gets out."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler_svc.text.detokenize import Detokenizer
from scheduler_svc.text.stops import FoundStop, StopFinder, StopGuard, first_stop
from scheduler_svc.text.tokenizer import Tokenizer
from stepserve.protocol.job import Finish
from tests.scheduler_svc.text.checkpoints import tokenizer_of

KINDS = ("byte_level", "llama_bpe", "word_level")


@cache
def tokenizer(kind: str) -> Tokenizer:
    return Tokenizer(tokenizer_of(kind))


def brute_force(kind: str, ids: list[int], stops: list[str]) -> FoundStop | None:
    """Decode every prefix as a whole and look."""
    for offset in range(len(ids)):
        text = tokenizer(kind).decode(ids[: offset + 1])
        position = first_stop(text, stops)
        if position >= 0:
            return FoundStop(offset, len(text[:position].encode()))
    return None


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_the_finder_agrees_with_a_look_at_every_prefix(kind: str, data: st.DataObject) -> None:
    text = data.draw(st.text(alphabet="ab. é中🙂", max_size=30))
    stops = data.draw(st.lists(st.text(alphabet="ab. é中🙂", min_size=1, max_size=4), max_size=3))
    ids = tokenizer(kind).encode(text)
    expected = brute_force(kind, ids, stops)
    whole, one_by_one = (StopFinder(tokenizer(kind), stops) for _ in range(2))
    hits = [hit for token_id in ids if (hit := one_by_one.feed([token_id])) is not None]
    assert hits == ([expected] if expected else [])
    assert whole.feed(ids) == expected


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_streamed_text_is_the_text_before_the_stop_string(kind: str, data: st.DataObject) -> None:
    """What an api sends and never takes back, against decoding the log and cutting it."""
    text = data.draw(st.text(alphabet="ab. é中🙂", max_size=30))
    stops = data.draw(st.lists(st.text(alphabet="ab. é中🙂", min_size=1, max_size=4), max_size=3))
    ids = tokenizer(kind).encode(text)
    hit = StopFinder(tokenizer(kind), stops).feed(ids)
    log = ids[: hit.offset + 1] if hit else ids
    whole = tokenizer(kind).decode(log)
    expected = whole.encode()[: hit.text_bytes].decode() if hit else whole
    stream, guard = Detokenizer(tokenizer(kind)), StopGuard(stops)
    shown = ""
    for token_id in log:
        shown += guard.feed(stream.feed([token_id]))
        assert expected.startswith(shown)
    finish = Finish("stop", text_bytes=hit.text_bytes) if hit else Finish("length")
    assert shown + guard.finish(stream.rest(), finish) == expected
    assert first_stop(expected, stops) == -1


def test_the_earliest_match_wins_and_its_bytes_are_counted() -> None:
    ids = tokenizer("byte_level").encode("é the dog", False)
    finder = StopFinder(tokenizer("byte_level"), ["dog", "e dog", "zzz"])
    hit = finder.feed(ids)
    assert hit == FoundStop(len(ids) - 1, len("é th".encode()))
    assert finder.feed(ids) is None, "an output ends once"


def test_a_stop_string_inside_a_run_of_bytes_is_found_at_once() -> None:
    ids = tokenizer("llama_bpe").encode("a🙂a", False)
    finder = StopFinder(tokenizer("llama_bpe"), ["🙂"])
    hit = finder.feed(ids)
    assert hit is not None
    assert tokenizer("llama_bpe").decode(ids[: hit.offset + 1]) == "a🙂"


def test_the_text_of_a_stop_token_is_not_looked_at() -> None:
    ids = tokenizer("word_level").encode("Once upon", False)
    assert StopFinder(tokenizer("word_level"), ["upon"], hidden_ids=ids[1:]).feed(ids) is None


def test_a_stop_string_that_only_the_end_completes_is_cut_off() -> None:
    guard = StopGuard(["é"])
    assert guard.feed("ab") == "ab"
    assert guard.finish("cé", Finish("length")) == "c"


@pytest.mark.parametrize(
    ("fed", "shown"),
    [("abx", "abx"), ("ab", ""), ("xab", "x"), ("aab", "a"), ("abab", ""), ("a", ""), ("", "")],
)
def test_the_guard_holds_back_what_may_begin_a_stop_string(fed: str, shown: str) -> None:
    assert StopGuard(["ababc"]).feed(fed) == shown


def test_a_stop_string_counts_once_it_begins_after_the_first_tokens() -> None:
    """Found, shown and cut alike, in whatever portions the tokens come."""
    used = tokenizer("byte_level")
    ids = used.encode("a dog and a dog or a dog")
    early = len(used.encode("a dog and"))
    whole, one_by_one = (StopFinder(used, ["dog"], num_early=early) for _ in range(2))
    hit = whole.feed(ids)
    hits = [found for token_id in ids if (found := one_by_one.feed((token_id,)))]
    assert hit is not None
    assert [hit] == hits
    assert used.decode(ids).encode()[: hit.text_bytes].decode() == "a dog and a "
    guard = StopGuard(["dog"])
    shown = guard.skip(used.decode(ids[:early])) + guard.feed(used.decode(ids[early:]))
    shown += guard.finish("", Finish("stop", text_bytes=hit.text_bytes))
    assert shown == "a dog and a "
