"""Token ids to text by the bytes that each stands for, where that is all a decoder knows.

A byte-level decoder joins its tokens' bytes and reads them as UTF-8; so no token is looked at
twice, and an event's text takes a microsecond where decoding a window takes ten.
"""

from __future__ import annotations

from codecs import utf_8_decode
from collections.abc import Callable, Mapping, Sequence

from scheduler_svc.text.clean_up import beyond


class TokenBytes(dict[int, bytes]):
    """The bytes of each token of a byte-level vocabulary, found when they are first asked for."""

    def __init__(self, token_of: Callable[[int], str | None]) -> None:
        super().__init__()
        self._token_of = token_of

    def __missing__(self, token_id: int) -> bytes:
        token = self._token_of(token_id) or ""
        try:
            found = bytes(map(_BYTE_OF.__getitem__, token))
        except KeyError:  # An added token, which is written as it is.
            found = token.encode()
        self[token_id] = found
        return found


def _byte_of() -> dict[str, int]:
    """How byte-level vocabularies write a byte: as itself where that shows, else beyond Latin 1.

    Source: ``bytes_to_unicode`` of GPT-2's encoder.
    """
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = sorted(set(range(0x100)) - set(shown))
    return {
        **{chr(byte): byte for byte in shown},
        **{chr(0x100 + place): byte for place, byte in enumerate(hidden)},
    }


_BYTE_OF: Mapping[str, int] = _byte_of()


class ByteSpelling:
    """The text of the tokens that follow ``before``, of which the last few are enough."""

    def __init__(self, bytes_of: Mapping[int, bytes], before: Sequence[int]) -> None:
        self._bytes_of = bytes_of
        _, self._tail = _decoded(b"".join(map(bytes_of.__getitem__, before)))
        # Shown already for a character that what is before has begun.
        self._shown = _ended(self._tail)

    def feed(self, token_ids: Sequence[int]) -> str:
        """Return the text that is certain now and was not before."""
        text, self._tail = _decoded(
            b"".join((self._tail, *map(self._bytes_of.__getitem__, token_ids)))
        )
        if text and self._shown:
            text, self._shown = beyond(self._shown, text), ""
        return text

    def rest(self) -> str:
        """Return what was held back: it is the rest of the text if no token follows."""
        return beyond(self._shown, _ended(self._tail)) if self._tail else ""

    def probable_rest(self) -> str | None:
        """Return ``rest()`` where it is made of whole characters."""
        return None if self.rest() else ""


def _decoded(data: bytes) -> tuple[str, bytes]:
    """Return the text of bytes, and those at the end that may begin a character."""
    text, num_used = utf_8_decode(data, "replace", False)
    return text, data[num_used:]


def _ended(tail: bytes) -> str:
    """Return what is shown for bytes that nothing follows."""
    return tail.decode("utf-8", "replace")
