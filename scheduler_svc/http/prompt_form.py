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

# Of one request, whose prompts are jobs each: as many as four of the largest jobs have.
MAX_SHOWN = 2**17
# Of one that is streamed, whose JSON may wait for a client that does not read: some sixty bytes
# of an entry where there are no likeliest ones, fewer where there are.
MAX_STREAMED = 2**11


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

    def show(
        self, shown: dict[str, Any], logprobs: Sequence[TokenLogprobs], num_chars: int = 0
    ) -> None:
        """Add them to what is shown of an output from its first token on.

        ``num_chars``: of the prompt's text, where it is echoed.
        """
        entries = self._entries(logprobs)
        if self.is_echoed:
            # A tokenizer may have changed the text that it was given.
            starts = [min(start, num_chars) for start in self.names.starts(self.token_ids)]
            before = self.names.completion(self.token_ids, entries, starts)
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


def check_number(body: Mapping[str, Any], param: str, num_likeliest: int, num_tokens: int) -> None:
    """Raise ApiError, of ``param``, where ``num_tokens`` have more to show than a request may.

    The tokens are those of all its prompts, for each of their outputs.
    """
    most, where = (MAX_STREAMED, " in a stream") if boolean(body, "stream") else (MAX_SHOWN, "")
    if num_tokens * (1 + num_likeliest) > most:
        problem = (
            f"its own and {num_likeliest} likeliest of each of {num_tokens} prompt tokens, of all"
            f" prompts and outputs, are more than the {most} that one request may have{where}"
        )
        raise invalid(param, problem)


def num_listed(body: Mapping[str, Any]) -> int | None:
    """Return how many of the likeliest tokens ``prompt_logprobs`` asks for, None for nothing.

    Raises ApiError where it can't be had.
    """
    number = integer(body, "prompt_logprobs", 0, MAX_LOGPROBS)
    if number is not None and boolean(body, "stream"):
        raise invalid("prompt_logprobs", "is not possible together with stream")
    return number
