"""Where in a text its tokens begin."""

from __future__ import annotations

from collections.abc import Sequence

from scheduler_svc.text.detokenize import Detokenizer


class TokenStarts:
    """Feeds a detokenizer token by token.

    A token begins where the text that is told before it would end, were it the last: with what
    is held back, but without a character that it completes. Nothing begins before what was
    told to begin before it, also where a token changes the text of others.
    """

    def __init__(self, detokenizer: Detokenizer) -> None:
        self._detokenizer = detokenizer
        self._num_certain = 0
        self._start = 0

    def feed(self, token_ids: Sequence[int]) -> tuple[str, list[int]]:
        """Return what the detokenizer does, and the character at which each token begins."""
        pieces, starts = [], []
        for token_id in token_ids:
            starts.append(self._start)
            piece = self._detokenizer.feed((token_id,))
            pieces.append(piece)
            self._num_certain += len(piece)
            num_chars = self._num_certain + len(self._detokenizer.probable_rest())
            self._start = max(self._start, num_chars)
        return "".join(pieces), starts
