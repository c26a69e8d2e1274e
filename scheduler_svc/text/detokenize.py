"""Token ids to text, piece by piece, such that the pieces are the text of the whole.

``tokenizers.DecodeStream`` is not used: it differs from decoding the whole where bytes
are not valid UTF-8. Byte-fallback decoders write a *run* of byte tokens as text only if
the whole run is valid and as replacement characters if not, so that a later token
changes what an earlier one meant; byte-level decoders never do, but a text that ends
with a replacement character makes DecodeStream wait and its window grow without end.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from scheduler_svc.text.clean_up import CleanUp, beyond
from scheduler_svc.text.tokenizer import Tokenizer

REPLACEMENT = "\ufffd"
# A window is decoded at each feed, and cut back to its last tokens when it has grown.
# Of the tokens that stay, the first may be torn out of a character; it takes three
# bytes at most until decoding is in step again.
MAX_WINDOW = 24
KEPT_WINDOW = 8
# A longer run of byte tokens is looked at when it has ended: its text can't be told
# from its last bytes alone, and it is decoded anew for each token.
MAX_EAGER_RUN = 64


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
        self._tokenizer = tokenizer
        self._hidden_ids = frozenset(hidden_ids)
        self._window: list[int] = []
        self._num_settled = 0  # tokens of the window before a run of bytes at its end
        self._shown = ""  # of the window's text: the prompt's, and what was returned
        self._clean_up: CleanUp | None = None
        if tokenizer is not None:
            self._window = _context(tokenizer, prompt_ids)
            self._num_settled = self._settled_after(len(self._window), tokenizer.byte_ids)
            self._shown = tokenizer.spell(self._window)
            if tokenizer.clean_up is not None:
                self._clean_up = CleanUp(tokenizer.clean_up, self._shown)

    def feed(self, token_ids: Sequence[int]) -> str:
        """Return the text that is certain now and was not before."""
        tokenizer = self._tokenizer
        if tokenizer is None:
            return ""
        new_ids = [i for i in token_ids if i in tokenizer.text_ids and i not in self._hidden_ids]
        self._window += new_ids
        num_settled = self._settled_after(len(new_ids), tokenizer.byte_ids)
        if num_settled == self._num_settled:
            return ""
        self._num_settled = num_settled
        text = self._certain(tokenizer, 0)
        piece = beyond(self._shown, text)
        if piece:
            self._shown = text
        if num_settled > MAX_WINDOW and self._shown == text:
            self._shrink(tokenizer)
        return piece if self._clean_up is None else self._clean_up.feed(piece)

    def rest(self) -> str:
        """Return what was held back: it is the rest of the text if no token follows."""
        return self._cleaned(self._spelled_rest())

    def probable_rest(self) -> str:
        """Return ``rest()`` if it is made of whole characters, else nothing."""
        if len(self._window) - self._num_settled > MAX_EAGER_RUN:
            return ""
        rest = self._spelled_rest()
        return "" if REPLACEMENT in rest else self._cleaned(rest)

    def _spelled_rest(self) -> str:
        if self._tokenizer is None:
            return ""
        return beyond(self._shown, self._tokenizer.spell(self._window))

    def _cleaned(self, rest: str) -> str:
        return rest if self._clean_up is None else self._clean_up.rest(rest)

    def _settled_after(self, num_new: int, byte_ids: frozenset[int]) -> int:
        for end in range(len(self._window), len(self._window) - num_new, -1):
            if self._window[end - 1] not in byte_ids:
                return end
        return self._num_settled

    def _certain(self, tokenizer: Tokenizer, start: int) -> str:
        text = tokenizer.spell(self._window[start : self._num_settled])
        # Without runs of bytes only a character cut short at the end can still change,
        # and it decodes to one replacement character.
        if not tokenizer.byte_ids and text.endswith(REPLACEMENT):
            return text[:-1]
        return text

    def _shrink(self, tokenizer: Tokenizer) -> None:
        start = self._num_settled - KEPT_WINDOW
        while start > 0 and self._window[start] in tokenizer.byte_ids:
            start -= 1
        text = self._certain(tokenizer, start)
        if text:
            self._window = self._window[start:]
            self._num_settled -= start
            self._shown = text


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
