"""Text to token ids and back, for edges whose clients ask for it, or ask in another form."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scheduler_svc.frontend.live_card import LiveCard
from scheduler_svc.frontend.sampling_rules import check_token_ids
from scheduler_svc.frontend.validate import check_room, check_size
from scheduler_svc.text.model_card import ModelCard
from scheduler_svc.text.tokenizer import INLINE_CHARS, Tokenizer
from stepserve.protocol.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Conversation:
    """A chat as its template takes it: messages and tools as JSON has them.

    ``options`` are names that the template may read, such as "enable_thinking".
    """

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rendered:
    """A conversation's prompt: its text, and its token ids."""

    text: str
    token_ids: list[int]


class Texts:
    """What the served model's tokenizer and chat template make of texts.

    Methods raise InvalidRequest where the model has none, or could never hold what they are given:
    whether its workers can now is judged where a job is made of it.
    """

    def __init__(self, live_card: LiveCard) -> None:
        self._live_card = live_card

    async def render(self, conversation: Conversation) -> Rendered:
        """Return the prompt of a conversation, up to where its answer begins."""
        card = await self._live_card.widest()
        tokenizer = _tokenizer(card, "messages")
        if card.chat_template is None:
            raise InvalidRequest("messages", f"{card.chat_problem}; send a prompt")
        num_chars = sum(map(len, _strings((conversation.messages, conversation.tools))))
        check_size("messages", num_chars, tokenizer, card.max_context)
        asked = (conversation.messages, conversation.tools, conversation.options)
        if num_chars <= INLINE_CHARS and not conversation.options:
            text = card.chat_template.render(*asked)
        else:
            text = await asyncio.to_thread(card.chat_template.render, *asked)
        # A chat template writes the special tokens itself.
        return Rendered(text, await self._fitting_ids("messages", text, card, False))

    async def chat_template_source(self) -> str:
        """Return the chat template, empty where there is none."""
        template = (await self._live_card.get()).chat_template
        return "" if template is None else template.source

    async def ids(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Return a text's token ids, no more than ever fit into a context."""
        card = await self._live_card.widest()
        return await self._fitting_ids("prompt", text, card, add_special_tokens)

    async def text(self, token_ids: Sequence[int], path: str = "tokens") -> str:
        """Return the text of token ids, without that of special tokens."""
        card = await self._live_card.get()
        tokenizer = _tokenizer(card, path)
        check_token_ids(path, token_ids, card.vocab_size)
        if len(token_ids) <= INLINE_CHARS:
            return tokenizer.decode(token_ids)
        return await asyncio.to_thread(tokenizer.decode, token_ids)

    async def tokens(self) -> Tokenizer | None:
        """Return what knows how a single token is written; None where nothing does."""
        return (await self._live_card.get()).tokenizer

    async def max_context(self) -> int:
        """Return how many tokens prompt and output may have together now."""
        return (await self._live_card.get()).max_context

    async def _fitting_ids(
        self, path: str, text: str, card: ModelCard, add_special_tokens: bool
    ) -> list[int]:
        tokenizer = _tokenizer(card, path)
        check_size(path, len(text), tokenizer, card.max_context)
        token_ids = await tokenizer.encode_async(text, add_special_tokens=add_special_tokens)
        check_room(path, len(token_ids), card)
        return token_ids


def _tokenizer(card: ModelCard, path: str) -> Tokenizer:
    if card.tokenizer is None:
        raise InvalidRequest(path, "this model has no tokenizer; send and take token ids")
    return card.tokenizer


def _strings(value: Any) -> Iterator[str]:
    """Every text in a JSON value, the names of its fields too."""
    pending = [value]
    while pending:
        value = pending.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, Mapping):
            pending += (*value.keys(), *value.values())
        elif isinstance(value, Sequence):
            pending += value
