"""Token ids to text, piece by piece, such that the pieces are the text of the whole."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from scheduler_svc.text.byte_spelling import ByteSpelling
from scheduler_svc.text.clean_up import CleanUp
from scheduler_svc.text.tokenizer import Tokenizer
from scheduler_svc.text.window_spelling import KEPT_WINDOW, WindowSpelling


class Spelling(Protocol):
    """Text before it is cleaned up, of tokens that come after others."""

    def feed(self, token_ids: Sequence[int], /) -> str:
        """Return the text that is certain now and was not before."""

    def rest(self) -> str:
        """Return what was held back: it is the rest of the text if no token follows."""

    def probable_rest(self) -> str | None:
        """Return ``rest()`` if it is made of whole characters, else None."""


class Detokenizer:
    """The text of one output after ``prompt_ids``.

    The text after some tokens depends on nothing but these tokens, not on how they
    were fed. All pieces and then ``rest()`` concatenate to exactly
    ``tokenizer.decode(prompt and output)`` less ``tokenizer.decode(prompt)``: a decoder
    may strip the first space of a text, but no output is the first where there is a
    prompt. Where the output changes the prompt's end (it completes a character, say),
    what changed belongs to it. ``hidden_ids`` are left out of the output's text.
    """

    def __init__(
        self,
        tokenizer: Tokenizer | None,
        hidden_ids: Collection[int] = (),
        prompt_ids: Sequence[int] = (),
    ) -> None:
        self._hidden_ids = frozenset(hidden_ids)
        self._text_ids: Collection[int] = ()
        self._spelling: Spelling | None = None
        self._clean_up: CleanUp | None = None
        if tokenizer is not None:
            self._text_ids = tokenizer.text_ids
            before = _context(tokenizer, prompt_ids)
            if tokenizer.clean_up is not None:
                self._clean_up = CleanUp(tokenizer.clean_up, tokenizer.spell(before))
            self._spelling = _spelling(tokenizer, before)

    def feed(self, token_ids: Sequence[int]) -> str:
        """Return the text that is certain now and was not before."""
        if self._spelling is None:
            return ""
        text_ids, hidden_ids = self._text_ids, self._hidden_ids
        piece = self._spelling.feed([i for i in token_ids if i in text_ids and i not in hidden_ids])
        return piece if self._clean_up is None else self._clean_up.feed(piece)

    def rest(self) -> str:
        """Return what was held back: it is the rest of the text if no token follows."""
        return "" if self._spelling is None else self._cleaned(self._spelling.rest())

    def probable_rest(self) -> str:
        """Return ``rest()`` if it is made of whole characters, else nothing."""
        rest = None if self._spelling is None else self._spelling.probable_rest()
        return "" if rest is None else self._cleaned(rest)

    def _cleaned(self, rest: str) -> str:
        return rest if self._clean_up is None else self._clean_up.rest(rest)


def _spelling(tokenizer: Tokenizer, before: list[int]) -> Spelling:
    if tokenizer.token_bytes is not None:
        return ByteSpelling(tokenizer.token_bytes, before)
    return WindowSpelling(tokenizer.spell, tokenizer.byte_ids, before)


def _context(tokenizer: Tokenizer, prompt_ids: Sequence[int]) -> list[int]:
    """Return the prompt's last tokens, as many as make their text what it is in the whole."""
    context: list[int] = []
    num_needed = KEPT_WINDOW
    for token_id in reversed(prompt_ids):
        if token_id not in tokenizer.text_ids:
            continue
        context.append(token_id)
        if len(context) >= num_needed and token_id not in tokenizer.byte_ids:
            if tokenizer.spell(context[::-1]):
                break
            num_needed *= 2
    return context[::-1]
