"""A byte-level text is its tokens' bytes: as ``tokenizers`` decodes them, without decoding."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from scheduler_svc.text.byte_spelling import ByteSpelling
from scheduler_svc.text.clean_up import beyond
from scheduler_svc.text.detokenize import Detokenizer
from scheduler_svc.text.tokenizer import Tokenizer
from tests.scheduler_svc.text.checkpoints import KINDS, byte_level

# A space is no byte's character, "é" is that of one, "中" is none's.
ADDED = ["<tool_call>", "<a b>", "é", "中"]


@cache
def backend() -> Backend:
    tokenizer = byte_level()
    tokenizer.add_tokens([AddedToken(token, special=False) for token in ADDED])
    return tokenizer


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer(backend())


@cache
def id_of_byte() -> dict[int, int]:
    """The token of each byte alone."""
    known = tokenizer()
    bytes_of = known.token_bytes
    assert bytes_of is not None
    single = {bytes_of[i]: i for i in known.text_ids if len(bytes_of[i]) == 1}
    return {byte: single[bytes([byte])] for byte in range(256)}


def ids_of(data: bytes) -> list[int]:
    return [id_of_byte()[byte] for byte in data]


PIECES = st.one_of(
    st.binary(max_size=6).map(ids_of),
    st.text(max_size=3).map(lambda text: ids_of(text.encode())),
    st.sampled_from(ADDED).map(lambda token: [backend().token_to_id(token)]),
)
IDS = st.lists(PIECES, max_size=12).map(lambda parts: [i for part in parts for i in part])


@settings(max_examples=400, deadline=None)
@given(before=IDS, output=IDS)
@example(before=ids_of(b"\xef\xbf"), output=ids_of(b"\xbd"))
@example(before=ids_of(b"\xf0\x9f"), output=ids_of(b"\xf0\x9f"))
@example(before=ids_of(b"\xed\xa0"), output=ids_of(b"\x80"))
@example(before=[], output=ids_of(b"\xed\xa0"))
def test_the_text_is_what_the_backend_decodes(before: list[int], output: list[int]) -> None:
    bytes_of = tokenizer().token_bytes
    assert bytes_of is not None
    shown = backend().decode(before)
    stream = ByteSpelling(bytes_of, before)
    text = ""
    for end, token_id in enumerate(output, 1):
        text += stream.feed([token_id])
        whole = backend().decode(before + output[:end])
        # For a character that the prompt has begun a replacement is shown already.
        assert text + stream.rest() == beyond(shown, whole)


def test_only_the_end_of_a_prompt_matters() -> None:
    bytes_of = tokenizer().token_bytes
    assert bytes_of is not None
    for cut in range(1, 4):
        character = "𐍈".encode()
        prompt, output = ids_of(b"x" * 50 + character[:cut]), ids_of(character[cut:])
        stream = Detokenizer(tokenizer(), (), prompt)
        assert stream.feed(output) == "𐍈"


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_only_a_byte_level_decoder_is_taken_for_one(kind: str) -> None:
    known = Tokenizer(KINDS[kind]())
    assert (known.token_bytes is not None) == (kind == "byte_level")
