"""How the log-probabilities of a prompt's tokens are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scheduler_svc.http.errors import invalid
from scheduler_svc.http.logprobs import Entry, TokenNames
from scheduler_svc.http.values import boolean, integer
from stepserve.protocol.sampling import MAX_LOGPROBS
from stepserve.protocol.step import TokenLogprobs


@dataclass(frozen=True, slots=True)
class PromptForm:
    """A prompt's tokens, and where they are shown with their log-probabilities.

    ``is_echoed``: before the output's, as OpenAI's completions have it. ``is_listed``: in
    ``prompt_logprobs``, as vLLM has it.
    """

    names: TokenNames
    token_ids: Sequence[int]
    is_echoed: bool = False
    is_listed: bool = False

    def show(self, shown: dict[str, Any], logprobs: Sequence[TokenLogprobs]) -> None:
        """Add them to what is shown of an output from its first token on."""
        entries = self._entries(logprobs)
        if self.is_echoed:
            before = self.names.completion(self.token_ids, entries, 0)
            own = shown["logprobs"]
            shown["logprobs"] = {name: [*before[name], *own[name]] for name in before}
        if self.is_listed:
            pairs = zip(self.token_ids, entries, strict=True)
            shown["prompt_logprobs"] = [each and self.names.place(i, each) for i, each in pairs]

    def _entries(self, logprobs: Sequence[TokenLogprobs]) -> list[Entry | None]:
        """Each token's; the first has none, nor has any where no worker has told them."""
        prompt = logprobs[0].prompt if logprobs else None
        if prompt is None:
            return [None] * len(self.token_ids)
        return [None, *prompt]


def num_listed(body: Mapping[str, Any]) -> int | None:
    """Return how many of the likeliest tokens ``prompt_logprobs`` asks for, None for nothing.

    Raises ApiError where it can't be had.
    """
    number = integer(body, "prompt_logprobs", 0, MAX_LOGPROBS)
    if number is not None and boolean(body, "stream"):
        raise invalid("prompt_logprobs", "is not possible together with stream")
    return number
