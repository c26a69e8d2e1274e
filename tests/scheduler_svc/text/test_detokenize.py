"""The pieces of a stream are the text of the whole, whatever the tokenizer and the tokens."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler_svc.text.detokenize import Detokenizer
from scheduler_svc.text.tokenizer import Tokenizer
from scheduler_svc.text.window_spelling import MAX_WINDOW, WindowSpelling
from tests.scheduler_svc.text.checkpoints import KINDS, TEXTS, tokenizer_of


@cache
def tokenizer(kind: str) -> Tokenizer:
    return Tokenizer(tokenizer_of(kind))


def random_ids(kind: str) -> st.SearchStrategy[list[int]]:
    """Any ids, runs of bytes among them, and some that no token has."""
    size = tokenizer_of(kind).get_vocab_size()
    byte_ids = sorted(tokenizer(kind).byte_ids)
    ids = st.integers(0, size + 2)
    if byte_ids:
        ids = st.one_of(ids, st.sampled_from(byte_ids))
    text = st.text(max_size=20).map(lambda text: tokenizer(kind).encode(text))
    return st.lists(st.one_of(ids.map(lambda i: [i]), text), max_size=40).map(
        lambda parts: [i for part in parts for i in part]
    )


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_pieces_concatenate_to_the_whole_decoding(kind: str, data: st.DataObject) -> None:
    ids = data.draw(random_ids(kind))
    cuts = data.draw(st.lists(st.integers(0, len(ids)), max_size=5).map(sorted))
    one_by_one, in_portions = Detokenizer(tokenizer(kind)), Detokenizer(tokenizer(kind))
    text = ""
    for end, token_id in enumerate(ids, 1):
        text += one_by_one.feed([token_id])
        assert text + one_by_one.rest() == tokenizer(kind).decode(ids[:end])
    bounds = [0, *cuts, len(ids)]
    portions = "".join(in_portions.feed(ids[begin:end]) for begin, end in pairwise(bounds))
    assert portions == text, "the text after some tokens depends on how they were fed"


@pytest.mark.parametrize("kind", KINDS)
def test_texts_come_out_as_they_are_decoded(kind: str) -> None:
    for text in TEXTS:
        ids = tokenizer(kind).encode(text * 5)
        stream = Detokenizer(tokenizer(kind))
        pieces = [stream.feed([token_id]) for token_id in ids]
        assert "".join(pieces) + stream.rest() == tokenizer(kind).decode(ids)
        assert sum(map(bool, pieces)) > len(pieces) // 10, "it streams"


def test_a_character_split_over_tokens_appears_when_it_is_whole() -> None:
    backend = tokenizer_of("byte_level")
    ids = tokenizer("byte_level").encode("𐍈", False)
    assert len(ids) == 4, "this tokenizer has not seen the character"
    stream = Detokenizer(tokenizer("byte_level"))
    assert [stream.feed([i]) for i in ids] == ["", "", "", "𐍈"]
    assert backend.decode(ids) == "𐍈"


def test_an_incomplete_character_at_the_end_is_what_the_whole_decoding_says() -> None:
    ids = tokenizer("byte_level").encode("ok𐍈", False)[:-1]
    stream = Detokenizer(tokenizer("byte_level"))
    assert stream.feed(ids) == "ok"
    assert stream.rest() == "\ufffd" == tokenizer("byte_level").decode(ids)[2:]


def test_a_run_of_bytes_is_text_only_if_all_of_it_is_valid() -> None:
    """Where DecodeStream differs from decoding the whole, we do not."""
    backend = tokenizer_of("llama_bpe")
    ids = [backend.token_to_id(t) for t in ("a", "<0xC3>", "<0xA9>", "<0xFF>", "b")]
    stream = Detokenizer(tokenizer("llama_bpe"))
    assert "".join(stream.feed([i]) for i in ids) == "a\ufffd\ufffd\ufffdb" == backend.decode(ids)
    assert stream.rest() == ""


def test_special_and_hidden_tokens_have_no_text() -> None:
    backend = tokenizer_of("byte_level")
    ids = tokenizer("byte_level").encode("ab", False)
    special = backend.token_to_id("<|user|>")
    stream = Detokenizer(tokenizer("byte_level"), hidden_ids=[ids[-1]])
    assert stream.feed([special, *ids]) == backend.decode(ids[:-1])


def test_the_window_stays_small_whatever_the_tokens() -> None:
    """Ids without a token, words, bytes that are whole characters: no cost that grows."""
    for kind in KINDS:
        known = tokenizer(kind)
        for ids in ([10_000] * 500, known.encode("a b " * 200)):
            stream = WindowSpelling(known.spell, known.byte_ids, [])
            for token_id in ids:
                stream.feed([token_id])
                assert len(stream._window) <= MAX_WINDOW + 1 or token_id not in known.text_ids


def test_without_a_tokenizer_there_is_no_text() -> None:
    stream = Detokenizer(None)
    assert stream.feed([1, 2, 3]) == "" == stream.rest()
