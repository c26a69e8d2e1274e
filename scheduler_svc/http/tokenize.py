"""``/tokenize`` and ``/detokenize``, as vLLM has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scheduler_svc.frontend.front_end import FrontEnd
from scheduler_svc.frontend.texts import Conversation
from scheduler_svc.http.chat import options_of
from scheduler_svc.http.errors import api_error, invalid
from scheduler_svc.http.logprobs import TokenNames
from scheduler_svc.http.messages import messages_of
from scheduler_svc.http.parameters import DETOKENIZE, TOKENIZE, check
from scheduler_svc.http.tools import tools_of
from scheduler_svc.http.values import array, boolean, text, wrong_type

MAX_TOKENS = 4 * 1024 * 1024


class Tokenize:
    """Tells what the model's tokenizer makes of texts, of chats, and of token ids."""

    def __init__(self, front_end: FrontEnd) -> None:
        self._front_end = front_end

    async def tokenize(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the token ids of a prompt or of messages. Raises ApiError."""
        try:
            check(body, TOKENIZE)
            token_ids = await self._ids(body)
            answer = {
                "count": len(token_ids),
                "max_model_len": await self._front_end.texts.max_context(),
                "tokens": token_ids,
                "token_strs": None,
            }
            if boolean(body, "return_token_strs"):
                names = TokenNames(await self._front_end.texts.tokens())
                answer["token_strs"] = [names.name(token_id) for token_id in token_ids]
        except Exception as error:
            raise api_error(error) from error
        return answer

    async def detokenize(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the text of token ids. Raises ApiError."""
        try:
            check(body, DETOKENIZE)
            token_ids = array(body, "tokens", MAX_TOKENS)
            for at, each in enumerate(token_ids):
                if isinstance(each, bool) or not isinstance(each, int):
                    raise wrong_type(f"tokens[{at}]", "an integer", each)
                if each < 0:
                    raise invalid(f"tokens[{at}]", "is negative")
            return {"prompt": await self._front_end.texts.text(token_ids)}
        except Exception as error:
            raise api_error(error) from error

    async def _ids(self, body: Mapping[str, Any]) -> list[int]:
        texts = self._front_end.texts
        if body.get("messages") is None:
            prompt = text(body, "prompt")
            return await texts.ids(prompt, boolean(body, "add_special_tokens", default=True))
        conversation = Conversation(messages_of(body), tools_of(body), options_of(body))
        rendered = await texts.render(conversation)
        if boolean(body, "add_special_tokens"):
            return await texts.ids(rendered.text)
        return rendered.token_ids
