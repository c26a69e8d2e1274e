"""Where in a completion's text its tokens are: from one's offset to the next is what it adds."""

from __future__ import annotations

from functools import cache
from itertools import accumulate, pairwise
from typing import Any

import pytest

from scheduler_svc.frontend.output import OutputStream
from scheduler_svc.http.choice import Choice, Collected
from scheduler_svc.http.completion_form import CompletionForm, whole
from scheduler_svc.http.logprobs import TokenNames
from scheduler_svc.http.prompt_form import PromptForm
from scheduler_svc.text.tokenizer import Tokenizer
from stepserve.protocol.inference import StreamEvent
from stepserve.protocol.job import Finish, JobSpec, OutputLog
from stepserve.protocol.prompt_logprobs import PromptLogprobs
from stepserve.protocol.sampling import Sampling
from stepserve.protocol.step import TokenLogprobs
from tests.scheduler_svc.text.checkpoints import KINDS, tokenizer_of

PROMPT, OUTPUT = "日本 é", "日本 é ab 🙂."
KEYS = ("tokens", "token_logprobs", "top_logprobs", "text_offset")


@cache
def tokenizer(kind: str) -> Tokenizer:
    return Tokenizer(tokenizer_of(kind))


def events(kind: str, sizes: int, first: int = 0) -> list[StreamEvent]:
    """Return an output's events of ``sizes`` tokens each, from token ``first`` on."""
    token_ids = tokenizer(kind).encode(OUTPUT, False)
    prompt_ids = tokenizer(kind).encode(PROMPT)
    scores = PromptLogprobs.of([-2.0] * (len(prompt_ids) - 1), (), ())
    logprobs = [TokenLogprobs(-0.5) for _ in token_ids]
    logprobs[0] = TokenLogprobs(-0.5, (), scores)
    sampling = Sampling(max_tokens=99, logprobs=0, prompt_logprobs=0)
    stream = OutputStream(JobSpec("job", "m", prompt_ids, sampling), 0, first, tokenizer(kind))
    found = []
    for at in range(0, len(token_ids), sizes):
        some = slice(at, at + sizes)
        end = Finish("length") if at + sizes >= len(token_ids) else None
        event = stream.take(OutputLog(0, token_ids[some], at, logprobs[some], end))
        found += [event] if event is not None else []
    return found


def form(kind: str) -> CompletionForm:
    names, prompt_ids = TokenNames(tokenizer(kind)), tokenizer(kind).encode(PROMPT)
    scored = [PromptForm(names, prompt_ids, is_echoed=True)]
    return CompletionForm("m", 1, [tokenizer(kind).decode(prompt_ids)], names, scored=scored)


def whole_choice(kind: str) -> dict[str, Any]:
    choice = Choice()
    for event in events(kind, 3):
        choice.add(event)
    return dict(whole(form(kind), [Collected("job", [choice])])["choices"][0])


def starts_by_decoding(kind: str, prompt_ids: list[int], token_ids: list[int]) -> list[int]:
    """Return them by decoding every beginning anew; half a character is none yet."""
    decode = tokenizer(kind).decode
    before = len(decode(prompt_ids))
    texts = [decode([*prompt_ids, *token_ids[:at]])[before:] for at in range(len(token_ids))]
    return list(accumulate((len(text.rstrip("\ufffd")) for text in texts), max))


@pytest.mark.parametrize("kind", KINDS)
def test_a_tokens_text_is_between_its_offset_and_the_next(kind: str) -> None:
    choice, prompt_ids = whole_choice(kind), tokenizer(kind).encode(PROMPT)
    echo, token_ids = tokenizer(kind).decode(prompt_ids), tokenizer(kind).encode(OUTPUT, False)
    expected = starts_by_decoding(kind, [], prompt_ids)
    expected += [len(echo) + at for at in starts_by_decoding(kind, prompt_ids, token_ids)]
    offsets = choice["logprobs"]["text_offset"]
    assert offsets == expected
    pieces = [choice["text"][a:b] for a, b in pairwise([*offsets, None])]
    assert "".join(pieces) == choice["text"]
    # Each character is a token's, where the vocabulary has it, or its bytes.
    assert ("日" in pieces) == ("日" in echo)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", [1, 2, 99])
def test_streamed_offsets_are_those_of_the_whole(kind: str, sizes: int) -> None:
    shown: dict[str, list[Any]] = {key: [] for key in KEYS}
    num_chars = 0
    for event in events(kind, sizes):
        choice = form(kind).choice(0, event, num_chars)
        num_chars += len(event.text)
        for key in KEYS:
            shown[key] += choice["logprobs"][key]
    assert shown == whole_choice(kind)["logprobs"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_that_is_resumed_goes_on_with_them(kind: str) -> None:
    [every] = events(kind, 99)
    for first in range(len(every.token_ids)):
        rest = [start for event in events(kind, 2, first) for start in event.text_offsets]
        assert rest == every.text_offsets[first:]
