"""From what an output's text has to be to what says which token may come next.

Both services compile by the same limits: the api to refuse, a worker to follow. All of them count
work, not time, so that what one accepts no slower machine refuses.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from threading import Lock

from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from llguidance.gbnf_to_lark import any_to_lark

from stepserve.grammars.lark import WHITE_SPACE, choice_of
from stepserve.protocol.errors import StepserveError
from stepserve.protocol.structured import StructuredOutputs

# Compiled ones that are kept: what many requests have is compiled once.
MAX_KEPT = 64
_MAX_PROBLEM_CHARS = 400
# How the library says that nothing can follow.
_NO_TEXT = "NoExtension"
# Lines of an error that show where in a grammar it is.
_SHOWN_LINE = re.compile(r"^\s*(\d+ )?\| .*$|^[\s^]*$", re.MULTILINE)


class GrammarRefused(StepserveError):
    """It can't be followed: it has an error, asks for what is not there, or is too large."""


def _limits() -> LLParserLimits:
    """What compiling, and one token after that, may take.

    By the library's account 50k units of a lexer's first fuel take a millisecond, 14k of a step's,
    and 20k items; a state of a lexer takes 1 to 2 kB.
    """
    return LLParserLimits(
        max_items_in_row=2_000,
        initial_lexer_fuel=1_000_000,
        step_lexer_fuel=200_000,
        step_max_items=20_000,
        max_lexer_states=20_000,
        max_grammar_size=20_000,
        # Its messages would quote what was written so far.
        verbose_errors=False,
    )


class Compiler:
    """Compiles for one tokenizer; in any thread, one at a time."""

    def __init__(self, tokenizer: LLTokenizer) -> None:
        self._tokenizer = tokenizer
        self._limits = _limits()
        self._lock = Lock()
        self._kept: OrderedDict[StructuredOutputs, LLMatcher | GrammarRefused] = OrderedDict()

    @classmethod
    def of_bytes(cls) -> Compiler:
        """Return one whose tokens are bytes: enough to know what would be refused."""
        return cls(LLTokenizer("byte"))

    @property
    def end_token_id(self) -> int:
        """The token by which matchers say that their text may end."""
        return int(self._tokenizer.eos_token)

    def matcher(self, asked: StructuredOutputs) -> LLMatcher:
        """Return a matcher that has taken nothing yet. Raises GrammarRefused, in one line."""
        with self._lock:
            kept = self._kept.pop(asked, None) or self._compile(asked)
            self._kept[asked] = kept
            if len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)
            if isinstance(kept, GrammarRefused):
                raise kept
            return kept.deep_copy()

    def _compile(self, asked: StructuredOutputs) -> LLMatcher | GrammarRefused:
        try:
            grammar = grammar_of(asked)
        except Exception as error:  # the library's readers raise kinds of their own
            return GrammarRefused(_problem(str(error)))
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0, limits=self._limits)
        if not matcher.is_error():
            # Whether there is any text at all shows only here.
            matcher.compute_bitmask()
        return GrammarRefused(_problem(matcher.get_error())) if matcher.is_error() else matcher


def grammar_of(asked: StructuredOutputs) -> str:
    """Return it in the library's own form. Raises whatever its readers do where they can't."""
    if asked.choice:
        # A terminal: the lexer takes thousands of them, the parser would not.
        return LLMatcher.grammar_from_lark(f"start: CHOICE\nCHOICE: {choice_of(asked.choice)}")
    if asked.regex:
        return LLMatcher.grammar_from_regex(asked.regex)
    if asked.grammar:
        return LLMatcher.grammar_from_lark(any_to_lark(asked.grammar))
    schema = asked.json or '{"type": "object"}'
    # A schema may say otherwise, in its "x-guidance".
    return LLMatcher.grammar_from_json_schema(schema, defaults={"whitespace_pattern": WHITE_SPACE})


def _problem(message: str) -> str:
    if _NO_TEXT in message:
        return "there is no text that it allows"
    line = " ".join(_SHOWN_LINE.sub("", message).split())
    return line if len(line) <= _MAX_PROBLEM_CHARS else f"{line[:_MAX_PROBLEM_CHARS]} ..."
