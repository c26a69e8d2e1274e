"""A model's tokenizer: text to token ids and back, as transformers would do it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tokenizers import Tokenizer as Backend

from scheduler_svc.text.byte_spelling import TokenBytes

_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")
# Longer texts are tokenized in a thread: this many characters take about a millisecond.
INLINE_CHARS = 1024


class Tokenizer:
    """A backend, with what the streaming of text must know about its decoder.

    ``text_ids`` are the ids that have text: those with a token that is not special.
    ``byte_ids`` are the tokens that stand for one byte each (SentencePiece's byte
    fallback); empty where the decoder treats none so. ``token_bytes`` are those that each token
    stands for; None where a text is more than its tokens' bytes. ``clean_up`` takes spaces before
    punctuation out of a text; None where the model's texts keep them.
    """

    def __init__(self, backend: Backend, clean_up: Callable[[str], str] | None = None) -> None:
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self.clean_up = clean_up
        vocabulary = backend.get_vocab(with_added_tokens=True)
        added = backend.get_added_tokens_decoder()
        special = {token_id for token_id, token in added.items() if token.special}
        self.text_ids = frozenset(set(vocabulary.values()) - special)
        self.byte_ids = frozenset(
            token_id for token, token_id in vocabulary.items() if _BYTE_TOKEN.fullmatch(token)
        )
        decoder = {} if backend.decoder is None else json.loads(backend.decoder.__getstate__())
        if not _has_byte_fallback(decoder):
            self.byte_ids = frozenset()
        is_byte_level = decoder.get("type") == "ByteLevel"
        self.token_bytes = TokenBytes(backend.id_to_token) if is_byte_level else None
        self.max_token_chars = max(map(len, vocabulary), default=1)

    @classmethod
    def of(cls, pretrained: Any) -> Tokenizer:
        """Return the tokenizer of what transformers loaded."""
        backend = pretrained.backend_tokenizer
        # As transformers' own decode: it leaves BPE alone, which never has such spaces.
        cleans_bpe = (
            pretrained.clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output
        )
        is_clean = type(backend.model).__name__ == "BPE" and not cleans_bpe
        cleans = pretrained.clean_up_tokenization_spaces and not is_clean
        return cls(backend, pretrained.clean_up_tokenization if cleans else None)

    def token_id(self, token: str) -> int | None:
        """Return the id of ``token``, or None where it has none."""
        return self._backend.token_to_id(token)

    def name(self, token_id: int) -> str:
        """Return how a token is written alone; that of a special one is its name."""
        return self._backend.decode([token_id], skip_special_tokens=False)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Return the token ids of ``text``, with BOS and the like where the model has them."""
        return self._backend.encode(text, add_special_tokens=add_special_tokens).ids

    async def encode_async(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Like ``encode``; a long text does not stop the event loop meanwhile."""
        if len(text) <= INLINE_CHARS:
            return self.encode(text, add_special_tokens)
        # Of all its methods, encode itself does not release the interpreter's lock.
        encode = self._backend.encode_batch_fast
        [encoding] = await asyncio.to_thread(encode, [text], add_special_tokens=add_special_tokens)
        return encoding.ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of ``token_ids`` as a whole, without that of special tokens."""
        text = self.spell(token_ids)
        return text if self.clean_up is None else self.clean_up(text)

    def spell(self, token_ids: Sequence[int]) -> str:
        """Return the text before it is cleaned up."""
        return self._backend.decode(token_ids, skip_special_tokens=True)


def _has_byte_fallback(decoder: Any) -> bool:
    return any(part.get("type") == "ByteFallback" for part in _parts(decoder))


def _parts(decoder: Any) -> Iterator[dict[str, Any]]:
    yield decoder
    for part in decoder.get("decoders", ()):
        yield from _parts(part)
