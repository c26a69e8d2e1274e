"""Whatever a client asks for is refused, or costs little: to compile, and for each token."""

from __future__ import annotations

import random
import resource
import time

import numpy as np
import pytest
from llguidance import LLMatcher, LLTokenizer

from stepserve.grammars.compiler import Compiler, GrammarRefused
from tests.checkpoints import EOS_TOKEN_ID, add_tokenizer
from tests.grammars import tokenizer_of
from tests.stepserve.grammars.hostile import HOSTILE

VOCAB_SIZE, NUM_TOKENS = 509, 10
# Of the process's own time, and of memory for all of them together; several times what is measured.
MAX_S, MAX_BYTES = 2.0, 400 << 20


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> LLTokenizer:
    return tokenizer_of(add_tokenizer(tmp_path_factory.mktemp("words"), VOCAB_SIZE), VOCAB_SIZE)


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def follow(matcher: LLMatcher, chance: random.Random) -> None:
    """Take tokens that are allowed, until that is over; none of them takes long."""
    for _ in range(NUM_TOKENS):
        begin_s = time.process_time()
        mask = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
        allowed = np.flatnonzero(np.unpackbits(mask, bitorder="little"))
        allowed = allowed[allowed != EOS_TOKEN_ID]
        is_over = not allowed.size or not matcher.consume_token(int(chance.choice(allowed)))
        assert time.process_time() - begin_s < MAX_S
        if is_over:
            return


def test_there_are_25() -> None:
    assert len(HOSTILE) >= 25
    assert not [name for name, asked in HOSTILE.items() if asked.problem()], "refused by its size"


def test_each_is_refused_or_bounded(tokenizer: LLTokenizer) -> None:
    before, refused = peak_bytes(), dict[str, str]()
    for name, asked in HOSTILE.items():
        begin_s = time.process_time()
        try:
            matcher = Compiler(tokenizer).matcher(asked)
        except GrammarRefused as error:
            refused[name] = str(error)
        else:
            follow(matcher, random.Random(7))
        assert time.process_time() - begin_s < NUM_TOKENS * MAX_S
    assert peak_bytes() - before < MAX_BYTES
    assert {"nested arrays", "an endless reference", "nothing", "a deep GBNF"} <= refused.keys()
    assert all(0 < len(problem) < 500 and "\n" not in problem for problem in refused.values())


@pytest.mark.parametrize("name", ["an endless reference", "nothing"])
def test_what_allows_no_text_is_known_without_the_models_tokens(name: str) -> None:
    with pytest.raises(GrammarRefused, match="there is no text that it allows"):
        Compiler.of_bytes().matcher(HOSTILE[name])


def test_what_is_compiled_once_is_followed_by_each_alone() -> None:
    compiler = Compiler.of_bytes()
    asked = HOSTILE["long choices"]
    first, second = compiler.matcher(asked), compiler.matcher(asked)
    assert first.consume_token(ord("a"))
    assert not first.is_error()
    assert second.consume_tokens([ord("a")] * 3)
