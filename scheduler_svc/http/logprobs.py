"""Log-probabilities in the two forms that OpenAI has for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from scheduler_svc.text.detokenize import Detokenizer
from scheduler_svc.text.token_starts import TokenStarts
from scheduler_svc.text.tokenizer import Tokenizer
from stepserve.protocol.prompt_logprobs import PlaceLogprobs
from stepserve.protocol.step import TokenLogprobs

# Of a token of an output, or of a prompt.
Entry: TypeAlias = TokenLogprobs | PlaceLogprobs

# What stands for a probability of zero: JSON has no infinity.
_LEAST = -9999.0


class TokenNames:
    """How single tokens are written; an id stands for itself where there is no tokenizer.

    A stream that is resumed may be of a job without log-probabilities: then there are none.
    """

    def __init__(self, tokenizer: Tokenizer | None) -> None:
        self._tokenizer = tokenizer

    def name(self, token_id: int) -> str:
        """Return the text of a token alone; that of a special one is its name."""
        if self._tokenizer is None:
            return f"token_id:{token_id}"
        return self._tokenizer.name(token_id)

    def starts(self, token_ids: Sequence[int]) -> list[int]:
        """Return at which character of the text of all of them each begins."""
        return TokenStarts(Detokenizer(self._tokenizer)).feed(token_ids)[1]

    def entry(self, token_id: int, logprob: float) -> dict[str, Any]:
        """Return a token as chats have it."""
        name = self.name(token_id)
        return {
            "token": name,
            "logprob": max(logprob, _LEAST),
            "bytes": list(name.encode(errors="replace")),
        }

    def chat(
        self, token_ids: Sequence[int], logprobs: Sequence[TokenLogprobs]
    ) -> list[dict[str, Any]]:
        """Return chats' form: each token, and the likeliest ones in its place."""
        return [
            {
                **self.entry(token_id, each.logprob),
                "top_logprobs": [self.entry(*likely) for likely in each.top],
            }
            for token_id, each in zip(token_ids, logprobs, strict=False)
        ]

    def completion(
        self, token_ids: Sequence[int], logprobs: Sequence[Entry | None], starts: Sequence[int]
    ) -> dict[str, list[Any]]:
        """Return completions' form; ``starts`` are the tokens' characters in the text."""
        return {
            "tokens": [self.name(token_id) for token_id in token_ids],
            "token_logprobs": [each and max(each.logprob, _LEAST) for each in logprobs],
            "top_logprobs": [
                each and self._likeliest(token_id, each)
                for token_id, each in zip(token_ids, logprobs, strict=False)
            ],
            "text_offset": list(starts),
        }

    def _likeliest(self, token_id: int, entry: Entry) -> dict[str, float]:
        """Of tokens that are written alike the likeliest one is shown."""
        shown: dict[str, float] = {}
        for likely, logprob in (*entry.top, (token_id, entry.logprob)):
            shown.setdefault(self.name(likely), max(logprob, _LEAST))
        return shown

    def place(self, token_id: int, entry: Entry) -> dict[str, dict[str, Any]]:
        """Return vLLM's form of a prompt's token; its rank where it is among the likeliest."""
        ranked: list[tuple[int, float, int | None]] = [
            (i, logprob, rank) for rank, (i, logprob) in enumerate(entry.top, 1)
        ]
        if not any(likely == token_id for likely, _ in entry.top):
            ranked.insert(0, (token_id, entry.logprob, None))
        return {
            str(i): {
                "logprob": max(logprob, _LEAST),
                "rank": rank,
                "decoded_token": self.name(i),
            }
            for i, logprob, rank in ranked
        }
