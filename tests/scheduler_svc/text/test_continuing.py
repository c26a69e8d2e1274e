"""An output's text is what it adds to its prompt's: decode(prompt + output) less decode(prompt)."""

from __future__ import annotations

import os.path
from functools import cache
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models
from transformers import PreTrainedTokenizerFast

from scheduler_svc.text.clean_up import CleanUp
from scheduler_svc.text.detokenize import Detokenizer
from scheduler_svc.text.stops import StopFinder, StopGuard
from scheduler_svc.text.tokenizer import Tokenizer
from scheduler_svc.text.window_spelling import MAX_WINDOW, WindowSpelling
from stepserve.protocol.job import Finish
from tests.scheduler_svc.text.checkpoints import KINDS, TEXTS, tokenizer_of

PIECES = (
    "▁a",
    "▁",
    "a",
    "##b",
    "b</w>",
    "|",
    "▁▁",
    "é",
    "<0xC3>",
    "<0xA9>",
    "Ġa",
    "Ã",
    "'",
    ".",
    "n't",
)
STRIPS = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 2, 0)])
# Every other decoder there is, over one vocabulary.
DECODERS = {
    "none": None,
    "bpe": decoders.BPEDecoder(suffix="</w>"),
    "ctc": decoders.CTC(pad_token="a", word_delimiter_token="|", cleanup=False),
    "metaspace": decoders.Metaspace(prepend_scheme="first"),
    "metaspace never": decoders.Metaspace(prepend_scheme="never"),
    "strips two": STRIPS,
    "strips each": decoders.Strip("▁", 1, 0),
    "word piece": decoders.WordPiece(prefix="##", cleanup=True),
}


@cache
def tokenizer(name: str) -> Tokenizer:
    kind = name.removesuffix(" cleaned")
    if kind in KINDS:
        backend = tokenizer_of(kind)
    else:
        backend = Backend(models.WordLevel({p: i for i, p in enumerate(PIECES)}, unk_token="a"))
        if (decoder := DECODERS[kind]) is not None:
            backend.decoder = decoder
    pretrained = PreTrainedTokenizerFast(
        tokenizer_object=backend, clean_up_tokenization_spaces=name != kind
    )
    return Tokenizer.of(pretrained)


NAMES = [*KINDS, *DECODERS, "word_level cleaned", "unigram cleaned", "none cleaned"]


def random_ids(name: str, size: int) -> st.SearchStrategy[list[int]]:
    text = st.sampled_from(TEXTS).map(lambda text: tokenizer(name).encode(text[:30], False))
    count = tokenizer(name)._backend.get_vocab_size()
    ids = st.integers(0, count + 1)
    if byte_ids := sorted(tokenizer(name).byte_ids):
        ids = st.one_of(ids, st.sampled_from(byte_ids))
    return st.one_of(st.lists(ids, max_size=size), text)


def added(name: str, prompt: list[int], output: list[int]) -> str:
    """The oracle. Where the output changes the prompt's end, from where it does."""
    before = tokenizer(name).decode(prompt)
    whole = tokenizer(name).decode(prompt + output)
    return whole[len(os.path.commonprefix((before, whole))) :]  # noqa: RUF071 (characters)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_pieces_are_what_the_output_adds(name: str, data: st.DataObject) -> None:
    prompt, output = data.draw(random_ids(name, 30)), data.draw(random_ids(name, 40))
    cuts = data.draw(st.lists(st.integers(0, len(output)), max_size=4).map(sorted))
    one_by_one, in_portions = (Detokenizer(tokenizer(name), (), prompt) for _ in range(2))
    text = ""
    for end, token_id in enumerate(output, 1):
        text += one_by_one.feed([token_id])
        assert text + one_by_one.rest() == added(name, prompt, output[:end])
    bounds = [0, *cuts, len(output)]
    portions = "".join(in_portions.feed(output[begin:end]) for begin, end in pairwise(bounds))
    assert portions == text, "the text after some tokens depends on how they were fed"


def test_the_first_word_keeps_its_space_only_after_a_prompt() -> None:
    """Llama 2's decoder strips a text's first space, which only the prompt can have."""
    backend = tokenizer_of("llama_bpe")
    word = backend.token_to_id("▁a")
    for prompt, text in (([], "a a"), ([backend.token_to_id("<s>")], "a a"), ([word], " a a")):
        stream = Detokenizer(tokenizer("llama_bpe"), (), prompt)
        assert stream.feed([word, word]) == text == added("llama_bpe", prompt, [word, word])


def test_what_completes_the_prompts_last_character_shows_it() -> None:
    first, *others = tokenizer("byte_level").encode("𐍈", False)
    stream = Detokenizer(tokenizer("byte_level"), (), [first])
    assert [stream.feed([i]) for i in others] == ["", "", "𐍈"]


def test_of_a_long_prompt_the_end_is_kept() -> None:
    prompt = tokenizer("llama_bpe").encode("a b stop " * 2000)
    spelling = Detokenizer(tokenizer("llama_bpe"), (), prompt)._spelling
    assert isinstance(spelling, WindowSpelling)
    assert len(spelling._window) <= MAX_WINDOW


@pytest.mark.parametrize("name", ["llama_bpe", "unigram", "word_level cleaned", "byte_level"])
@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_stop_strings_are_found_in_what_the_output_adds(name: str, data: st.DataObject) -> None:
    prompt, output = data.draw(random_ids(name, 12)), data.draw(random_ids(name, 20))
    whole = added(name, prompt, output)
    begin = data.draw(st.integers(0, max(0, len(whole) - 1)))
    stop = whole[begin : begin + data.draw(st.integers(1, 4))] or "z"
    if "\ufffd" in stop:
        return
    hit = StopFinder(tokenizer(name), [stop], prompt_ids=prompt).feed(output)
    ends = [end for end in range(1, len(output) + 1) if stop in added(name, prompt, output[:end])]
    if hit is None:
        assert all("\ufffd" in added(name, prompt, output[:end]) for end in ends)
        return
    assert hit.offset + 1 in ends
    text = added(name, prompt, output[: hit.offset + 1])
    stream, guard = Detokenizer(tokenizer(name), (), prompt), StopGuard([stop])
    shown = guard.feed(stream.feed(output[: hit.offset + 1]))
    shown += guard.finish(stream.rest(), Finish("stop", text_bytes=hit.text_bytes))
    assert shown == text[: text.find(stop)]


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet=" '.,?!nt msvré", max_size=24), st.lists(st.integers(0, 24), max_size=4))
@example("x n ' t", [3])
@example("a ' ' s n't", [4, 5])
def test_spaces_are_cleaned_up_in_pieces_as_in_the_whole(text: str, cuts: list[int]) -> None:
    clean = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer_of("word_level")
    ).clean_up_tokenization
    bounds = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[begin:end] for begin, end in pairwise(bounds)]
    stream = CleanUp(clean, pieces[0])
    shown = "".join(map(stream.feed, pieces[1:]))
    before, whole = clean(pieces[0]), clean(text)
    rest = whole[len(os.path.commonprefix((before, whole))) :]  # noqa: RUF071 (characters)
    assert shown + stream.rest() == rest
