"""Spaces before punctuation, taken out of a text that comes piece by piece."""

from __future__ import annotations

import re
from collections.abc import Callable

# Where a text can be cut so that its parts, cleaned up alone, are the cleaned whole. All that
# is replaced begins with a space and has four characters at most, so nothing reaches across
# after three that are no spaces; nor before a space, unless an apostrophe stands beside it
# (" ' " ends with a space, and what is left of it can complete " n't").
_CUT = re.compile(r"(?<=[^ ]{3})|(?<=[^ '])(?= [^'])")
_SEEN_BEHIND = 3


class CleanUp:
    """Cleans up what follows the text ``before``, which is not shown.

    All pieces and then ``rest`` concatenate to the cleaned whole, less what it has in
    common with ``before`` cleaned alone.
    """

    def __init__(self, clean: Callable[[str], str], before: str) -> None:
        self._clean = clean
        self._raw = before
        self._behind = ""  # the last that was cut off: where the next cut is depends on it
        self._shown = clean(before)  # of what is kept

    def feed(self, text: str) -> str:
        """Return what is certain now and was not before, whatever follows."""
        self._raw += text
        known = len(self._behind)
        cuts = _CUT.finditer(self._behind + self._raw, known)
        cut = max((match.end() for match in cuts), default=known) - known
        certain = self._clean(self._raw[:cut])
        self._behind = (self._behind + self._raw[:cut])[-_SEEN_BEHIND:]
        self._raw = self._raw[cut:]
        piece = beyond(self._shown, certain)
        self._shown = "" if piece else self._shown[len(certain) :]
        return piece

    def rest(self, text: str = "") -> str:
        """Return what remains if ``text`` is the last."""
        return beyond(self._shown, self._clean(self._raw + text))


def beyond(shown: str, text: str) -> str:
    """Return ``text`` less what it begins with as ``shown`` does."""
    if text.startswith(shown):
        return text[len(shown) :]
    pairs = enumerate(zip(shown, text, strict=False))
    return text[next((i for i, (one, other) in pairs if one != other), len(text)) :]
