"""Token ids to text, piece by piece, such that the pieces are the text of the whole.

``tokenizers.DecodeStream`` is not used: it differs from decoding the whole where bytes
are not valid UTF-8. Byte-fallback decoders write a *run* of byte tokens as text only if
the whole run is valid and as replacement characters if not, so that a later token
changes what an earlier one meant; byte-level decoders never do, but a text that ends
with a replacement character makes DecodeStream wait and its window grow without end.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from scheduler_svc.api.tokenizer import Tokenizer

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
    """The text of one output.

    The text after some tokens depends on nothing but these tokens, not on how they
    were fed. All pieces and then ``rest()`` concatenate to exactly
    ``tokenizer.decode(all tokens)``; ``hidden_ids`` are left out of it.
    """

    def __init__(self, tokenizer: Tokenizer | None, hidden_ids: Collection[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._hidden_ids = frozenset(hidden_ids)
        self._window: list[int] = []
        self._num_settled = 0  # tokens of the window before a run of bytes at its end
        self._num_shown = 0  # characters of the settled tokens' text that were returned

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
        piece = text[self._num_shown :]
        self._num_shown = max(self._num_shown, len(text))
        if num_settled > MAX_WINDOW:
            self._shrink(tokenizer)
        return piece

    def rest(self) -> str:
        """Return what was held back: it is the rest of the text if no token follows."""
        if self._tokenizer is None:
            return ""
        return self._tokenizer.decode(self._window)[self._num_shown :]

    def probable_rest(self) -> str:
        """Return ``rest()`` if it is made of whole characters, else nothing."""
        if len(self._window) - self._num_settled > MAX_EAGER_RUN:
            return ""
        rest = self.rest()
        return "" if REPLACEMENT in rest else rest

    def _settled_after(self, num_new: int, byte_ids: frozenset[int]) -> int:
        for end in range(len(self._window), len(self._window) - num_new, -1):
            if self._window[end - 1] not in byte_ids:
                return end
        return self._num_settled

    def _certain(self, tokenizer: Tokenizer, start: int) -> str:
        text = tokenizer.decode(self._window[start : self._num_settled])
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
            self._num_shown = len(text)
