"""Token ids to text by decoding the last of them again, for a decoder of any kind.

``tokenizers.DecodeStream`` is not used: it differs from decoding the whole where bytes
are not valid UTF-8. Byte-fallback decoders write a *run* of byte tokens as text only if
the whole run is valid and as replacement characters if not, so that a later token
changes what an earlier one meant; byte-level decoders never do, but a text that ends
with a replacement character makes DecodeStream wait and its window grow without end.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from scheduler_svc.text.clean_up import beyond

REPLACEMENT = "\ufffd"
# A window is decoded at each feed, and cut back to its last tokens when it has grown.
# Of the tokens that stay, the first may be torn out of a character; it takes three
# bytes at most until decoding is in step again.
MAX_WINDOW = 24
KEPT_WINDOW = 8
# A longer run of byte tokens is looked at when it has ended: its text can't be told
# from its last bytes alone, and it is decoded anew for each token.
MAX_EAGER_RUN = 64


class WindowSpelling:
    """The text of the tokens that follow ``before``, which ``spell`` writes.

    ``byte_ids`` are the tokens that a decoder takes in runs; none where it takes each for itself.
    """

    def __init__(
        self, spell: Callable[[Sequence[int]], str], byte_ids: Collection[int], before: list[int]
    ) -> None:
        self._spell = spell
        self._byte_ids = byte_ids
        self._window = before
        self._num_settled = 0  # tokens of the window before a run of bytes at its end
        self._num_settled = self._settled_after(len(before))
        self._shown = spell(before)  # of the window's text: what is before, and what was returned

    def feed(self, token_ids: Sequence[int]) -> str:
        """Return the text that is certain now and was not before."""
        self._window += token_ids
        num_settled = self._settled_after(len(token_ids))
        if num_settled == self._num_settled:
            return ""
        self._num_settled = num_settled
        text = self._certain(0)
        piece = beyond(self._shown, text)
        if piece:
            self._shown = text
        if num_settled > MAX_WINDOW and self._shown == text:
            self._shrink()
        return piece

    def rest(self) -> str:
        """Return what was held back: it is the rest of the text if no token follows."""
        return beyond(self._shown, self._spell(self._window))

    def probable_rest(self) -> str | None:
        """Return ``rest()`` where it is made of whole characters, and not too long to look at."""
        if len(self._window) - self._num_settled > MAX_EAGER_RUN:
            return None
        rest = self.rest()
        return None if REPLACEMENT in rest else rest

    def _settled_after(self, num_new: int) -> int:
        for end in range(len(self._window), len(self._window) - num_new, -1):
            if self._window[end - 1] not in self._byte_ids:
                return end
        return self._num_settled

    def _certain(self, start: int) -> str:
        text = self._spell(self._window[start : self._num_settled])
        # Without runs of bytes only a character cut short at the end can still change,
        # and it decodes to one replacement character.
        if not self._byte_ids and text.endswith(REPLACEMENT):
            return text[:-1]
        return text

    def _shrink(self) -> None:
        start = self._num_settled - KEPT_WINDOW
        while start > 0 and self._window[start] in self._byte_ids:
            start -= 1
        text = self._certain(start)
        if text:
            self._window = self._window[start:]
            self._num_settled -= start
            self._shown = text
