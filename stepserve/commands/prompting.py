"""What a command submits: a prompt, how to sample, under which name and urgency."""

from __future__ import annotations

import json
import os
import sys
from typing import Any, ClassVar

from pydantic import Field
from pydantic_settings import BaseSettings, CliPositionalArg

from stepserve.commands.sampling_options import SamplingOptions
from stepserve.process.variables import FROM_ENVIRONMENT
from stepserve.protocol.errors import InvalidRequest
from stepserve.protocol.inference import ChatMessage, Request


class Urgency(BaseSettings):
    """Who does the work, whom it is for, and how urgent it is."""

    model_config = FROM_ENVIRONMENT
    HELP_GROUP: ClassVar[str] = "job"

    served_model: str = Field("", description="model to ask, where several are served")
    priority: int = Field(
        0,
        ge=-10,
        le=10,
        description="urgency, -10 to 10, highest first; heeded by a service with --policy priority",
    )
    tenant: str = Field(
        "", description="whom the work is for: jobs are listed, shared out and cached by tenant"
    )
    deadline_s: float = Field(0.0, ge=0, description="seconds to end within; 0: no deadline")


class Prompting(SamplingOptions, Urgency):
    """What to continue."""

    prompt: CliPositionalArg[str] = Field(description='what to continue; "-": standard input')
    chat: bool = Field(False, description="send the prompt as a user's chat message")
    chat_template_kwargs: str = Field(
        "", description="with --chat, further values for the chat template: a JSON object"
    )
    idempotency_key: str = Field("", description="a retry with the same key is the same job")

    def request(self) -> Request:
        """Return the request. Raises InvalidRequest where the prompt is no text."""
        prompt = _text(self.prompt)
        return Request(
            prompt="" if self.chat else prompt,
            messages=[ChatMessage("user", prompt)] if self.chat else (),
            sampling=self.sampling(),
            model=self.served_model,
            priority=self.priority,
            tenant=self.tenant,
            deadline_s=self.deadline_s,
            idempotency_key=self.idempotency_key,
            chat_template_kwargs=json_object("--chat-template-kwargs", self.chat_template_kwargs),
        )


def json_object(option: str, text: str) -> dict[str, Any]:
    """Return what an option says in JSON; nothing where it is empty.

    Raises InvalidRequest where that is no object.
    """
    try:
        values = json.loads(text or "{}")
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise InvalidRequest(option, "is not a JSON object")
    return values


def _text(prompt: str) -> str:
    content = sys.stdin.buffer.read() if prompt == "-" else os.fsencode(prompt)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest("prompt", f"is not UTF-8 at byte {error.start}") from None
