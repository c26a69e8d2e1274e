"""Options of several client commands, and how a stream is shown."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable

from pydantic import Field
from pydantic_settings import BaseSettings, CliPositionalArg

from stepserve.process.variables import FROM_ENVIRONMENT
from stepserve.protocol.errors import InvalidRequest
from stepserve.protocol.inference import ChatMessage, Request, StreamEvent
from stepserve.protocol.sampling import SamplingParams


class Connection(BaseSettings):
    """Where the service is."""

    model_config = FROM_ENVIRONMENT

    target: str = Field("localhost:50051", description="a scheduler's HOST:PORT")


class Prompting(BaseSettings):
    """What to continue, how to sample, and under which name and urgency."""

    model_config = FROM_ENVIRONMENT

    prompt: CliPositionalArg[str] = Field(description='what to continue; "-": standard input')
    chat: bool = Field(False, description="send the prompt as a user's chat message")
    max_tokens: int | None = Field(None, ge=1, description="output tokens; default: what fits")
    temperature: float | None = Field(None, description="0 is greedy; default 1")
    top_p: float | None = Field(None, description="smallest set of tokens this likely")
    top_k: int | None = Field(None, description="so many of the likeliest tokens")
    seed: int | None = Field(None, description="the same seed gives the same output")
    stop: list[str] = Field(
        [], description="a text that ends the output; again for another (variable: a JSON list)"
    )
    n: int | None = Field(None, ge=1, le=16, description="independent outputs")
    priority: int = Field(0, ge=-10, le=10, description="urgency")
    tenant: str = Field("", description="whom the work is for")
    deadline_s: float = Field(0.0, ge=0, description="seconds to end within; 0: no deadline")
    idempotency_key: str = Field("", description="a retry with the same key is the same job")

    def request(self) -> Request:
        """Return the request. Raises InvalidRequest where the prompt is no text."""
        prompt = _text(self.prompt)
        sampling = SamplingParams(
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            seed=self.seed,
            stop=self.stop,
            n=self.n,
        )
        return Request(
            prompt="" if self.chat else prompt,
            messages=[ChatMessage("user", prompt)] if self.chat else (),
            sampling=sampling,
            priority=self.priority,
            tenant=self.tenant,
            deadline_s=self.deadline_s,
            idempotency_key=self.idempotency_key,
        )


def _text(prompt: str) -> str:
    content = sys.stdin.buffer.read() if prompt == "-" else os.fsencode(prompt)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest("prompt", f"is not UTF-8 at byte {error.start}") from None


def show(events: Iterable[StreamEvent], num_outputs: int) -> int:
    """Print text as it comes, and how it ended on stderr; return the exit status.

    Several outputs are printed as JSON lines instead, since their texts interleave.
    """
    failed = False
    for event in events:
        if event.text and num_outputs == 1:
            print(event.text, end="", flush=True)
        elif event.text:
            print(json.dumps({"index": event.index, "text": event.text}), flush=True)
        if event.finish is not None:
            failed = failed or event.finish.reason == "error"
            message = f": {event.finish.message}" if event.finish.message else ""
            print(f"\n[{event.index}: {event.finish.reason}{message}]", file=sys.stderr)
        if event.usage is not None:
            usage = event.usage
            counts = f"{usage.prompt_tokens} prompt and {usage.completion_tokens} output tokens"
            print(f"[{event.job_id}: {counts}]", file=sys.stderr)
    return 1 if failed else 0
