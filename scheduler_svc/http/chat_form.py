"""How a chat's answer looks on the wire, whole or in chunks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from scheduler_svc.http.choice import Collected
from scheduler_svc.http.ids import CHAT, public_id, unique_of
from scheduler_svc.http.logprobs import TokenNames
from scheduler_svc.http.messages import REASONING_NAMES
from scheduler_svc.http.prompt_form import PromptForm
from scheduler_svc.http.usage import UsageShown, usage_of
from scheduler_svc.text.speech import Manner, Piece, Speech
from stepserve.protocol.inference import StreamEvent


@dataclass(frozen=True, slots=True)
class ChatForm:
    """What an answer holds.

    ``names`` write tokens where log-probabilities are shown, ``prompt_ids`` are the prompt's
    where ids are shown, ``scored`` its tokens where theirs are (None: they are not).
    """

    model: str
    num_outputs: int
    manner: Manner
    names: TokenNames | None = None
    prompt_ids: Sequence[int] | None = None
    scored: PromptForm | None = None
    usage: UsageShown = field(default_factory=UsageShown)
    shows_reasoning: bool = True
    one_call: bool = False
    created_s: int = field(default_factory=lambda: int(time.time()))

    def envelope(self, job_id: str, kind: str) -> dict[str, Any]:
        """Return what every answer and every chunk of it has."""
        return {
            "id": public_id(CHAT, job_id),
            "object": kind,
            "created": self.created_s,
            "model": self.model,
        }

    def shown(self, pieces: Sequence[Piece]) -> list[Piece]:
        """Return the pieces that the client wants to see."""
        return [
            piece
            for piece in pieces
            if (self.shows_reasoning or piece.kind != "reasoning")
            and not (self.one_call and piece.call > 0)
        ]

    def delta(self, job_id: str, index: int, pieces: Sequence[Piece]) -> dict[str, Any]:
        """Return what pieces add to a message."""
        delta: dict[str, Any] = {}
        for piece in self.shown(pieces):
            if piece.kind in ("call", "arguments"):
                _add_call(delta.setdefault("tool_calls", []), job_id, index, piece)
            else:
                for name in ("content",) if piece.kind == "content" else REASONING_NAMES:
                    delta[name] = delta.get(name, "") + piece.text
        return delta

    def extras(self, event: StreamEvent) -> dict[str, Any]:
        """Return what a choice says of an event's tokens."""
        extras: dict[str, Any] = {"logprobs": None}
        if self.names is not None:
            entries = self.names.chat(event.token_ids, event.logprobs)
            extras["logprobs"] = {"content": entries, "refusal": None}
        if self.prompt_ids is not None:
            extras["token_ids"] = list(event.token_ids)
        return extras


def reason(finish_reason: str, num_calls: int) -> str:
    """Return why an output ended, as OpenAI says it."""
    return "tool_calls" if finish_reason == "stop" and num_calls else finish_reason


def whole(form: ChatForm, job: Collected) -> dict[str, Any]:
    """Return the answer of a job."""
    answer: dict[str, Any] = {**form.envelope(job.job_id, "chat.completion"), "choices": []}
    if form.prompt_ids is not None:
        answer["prompt_token_ids"] = list(form.prompt_ids)
    if form.scored is not None:
        form.scored.show(answer, job.choices[0].logprobs)
    for index, choice in enumerate(job.choices):
        speech = Speech(form.manner)
        pieces = [*speech.feed(choice.text), *speech.finish()]
        message: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None}
        message |= form.delta(job.job_id, index, pieces)
        for call in message.get("tool_calls") or ():
            del call["index"]
        if message["content"] is None and "tool_calls" not in message:
            message["content"] = ""
        event = StreamEvent(job.job_id, token_ids=choice.token_ids, logprobs=choice.logprobs)
        answer["choices"].append(
            {
                "index": index,
                "message": message,
                "finish_reason": reason(choice.reason, speech.num_calls),
                **form.extras(event),
            }
        )
    answer["usage"] = usage_of(job.usage)
    return answer


def call_id(job_id: str, index: int, call: int) -> str:
    """Return the id of a call: the same whoever tells of it, and whenever."""
    return f"call_{unique_of(job_id)}_{index}_{call}"


def _add_call(calls: list[dict[str, Any]], job_id: str, index: int, piece: Piece) -> None:
    if not calls or calls[-1]["index"] != piece.call:
        calls.append({"index": piece.call, "function": {"arguments": ""}})
    call = calls[-1]
    if piece.kind == "call":
        call |= {"id": call_id(job_id, index, piece.call), "type": "function"}
        call["function"]["name"] = piece.text
    else:
        call["function"]["arguments"] += piece.text
