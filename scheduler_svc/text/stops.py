"""Stop strings: found by a lane as tokens arrive, held back by the api as text leaves."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from scheduler_svc.text.detokenize import Detokenizer
from scheduler_svc.text.tokenizer import Tokenizer
from stepserve.protocol.job import Finish


@dataclass(frozen=True, slots=True)
class FoundStop:
    """A stop string is complete with the token at output ``offset``.

    The text is cut where it begins, at ``text_bytes`` UTF-8 bytes.
    """

    offset: int
    text_bytes: int


class StopFinder:
    """Finds the first token after which the text contains a stop string.

    ``hidden_ids`` are the stop token ids, whose text is not part of the output. Feed all
    tokens of the output, from offset 0, in any portions: the answer is the same. A stop
    string that begins in the prompt is none, nor is one that begins in the text of the first
    ``num_early`` tokens.
    """

    def __init__(
        self,
        tokenizer: Tokenizer | None,
        stops: Sequence[str],
        hidden_ids: Collection[int] = (),
        prompt_ids: Sequence[int] = (),
        num_early: int = 0,
    ) -> None:
        self._detokenizer = Detokenizer(tokenizer, hidden_ids, prompt_ids)
        self._num_early = num_early
        self._stops = tuple(stops)
        self._num_kept_chars = max(map(len, stops), default=1) - 1
        self._tail = ""
        self._tail_bytes = 0  # UTF-8 bytes of the text before the tail
        self._num_tokens = 0
        self._found = False

    def feed(self, token_ids: Sequence[int]) -> FoundStop | None:
        """Return the hit, or None; after a hit always None: the output has ended there."""
        if self._found:
            return None
        early = token_ids[: max(0, self._num_early - self._num_tokens)]
        if early:
            self._tail_bytes += len(self._detokenizer.feed(early).encode())
            self._num_tokens += len(early)
        for token_id in token_ids[len(early) :]:
            text = self._tail + self._detokenizer.feed((token_id,))
            seen = text + self._detokenizer.probable_rest()
            position = first_stop(seen, self._stops)
            if position >= 0:
                self._found = True
                num_bytes = self._tail_bytes + len(seen[:position].encode())
                return FoundStop(self._num_tokens, num_bytes)
            self._num_tokens += 1
            cut = max(0, len(text) - self._num_kept_chars)
            self._tail_bytes += len(text[:cut].encode())
            self._tail = text[cut:]
        return None


class StopGuard:
    """Holds back the end of a text while it could begin a stop string.

    What ``feed`` returns is text that no stop string can take back, whatever follows.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self._num_bytes = 0  # UTF-8 bytes returned so far

    def feed(self, text: str) -> str:
        """Return what can be shown of the text so far and was not."""
        if not self._stops:
            return self.skip(text)
        text = self._held + text
        cut = first_stop(text, self._stops)
        if cut < 0:
            cut = min((_begun(text, stop) for stop in self._stops), default=len(text))
        self._held = text[cut:]
        self._num_bytes += len(text[:cut].encode())
        return text[:cut]

    def skip(self, text: str) -> str:
        """Return text that no stop string begins in; all of it comes before any other."""
        self._num_bytes += len(text) if text.isascii() else len(text.encode())
        return text

    def finish(self, text: str, finish: Finish) -> str:
        """Return the last of the text, cut where a stop string begins."""
        text, self._held = self._held + text, ""
        if finish.text_bytes >= 0:
            num_bytes = max(0, finish.text_bytes - self._num_bytes)
            return text.encode()[:num_bytes].decode(errors="ignore")
        # A stop string that only the end of the output completed (bytes that turned out
        # to be whole characters, say) ended nothing, but is not shown either.
        cut = first_stop(text, self._stops)
        return text[:cut] if cut >= 0 else text


def first_stop(text: str, stops: Sequence[str]) -> int:
    """Return where the first of the stop strings in ``text`` begins, or -1."""
    found = [position for stop in stops if (position := text.find(stop)) >= 0]
    return min(found, default=-1)


def _begun(text: str, stop: str) -> int:
    """Return where a stop string that ``text`` does not end may have begun, else its length."""
    start = max(0, len(text) - len(stop) + 1)
    while (start := text.find(stop[0], start)) >= 0:
        if stop.startswith(text[start:]):
            return start
        start += 1
    return len(text)
