"""``stepserve chat``: a conversation in the terminal."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from collections.abc import Iterator
from typing import ClassVar

from pydantic import Field
from pydantic_settings import BaseSettings

from stepserve.client.blocking import Client
from stepserve.commands.connection import Connection
from stepserve.commands.prompting import Urgency, json_object
from stepserve.commands.sampling_options import SamplingOptions
from stepserve.process.variables import FROM_ENVIRONMENT
from stepserve.protocol.errors import InvalidRequest, StepserveError
from stepserve.protocol.inference import ChatMessage, Request

HELP = "/clear begins anew, /exit or Ctrl-D ends, Ctrl-C stops an answer"


class TemplateOptions(BaseSettings):
    """What the chat template is told besides the messages."""

    model_config = FROM_ENVIRONMENT
    HELP_GROUP: ClassVar[str] = "conversation"

    system: str = Field("", description="what the model is told first, as the system's message")
    chat_template_kwargs: str = Field(
        "", description="further values for the chat template: a JSON object"
    )


class Chat(TemplateOptions, SamplingOptions, Urgency, Connection):
    """Talk to the model, which remembers what was said: a line, an answer, and so on.

    /clear begins anew, /exit or Ctrl-D ends. Ctrl-C stops an answer; what there is of it stays
    in the conversation. Lines may come from a pipe.
    """

    def run(self) -> int:
        """Talk until there is no more input; return 0, 1 where an answer failed from a pipe."""
        if (self.n or 1) > 1:
            raise InvalidRequest("--n", "must be 1: an answer is one")
        template_kwargs = json_object("--chat-template-kwargs", self.chat_template_kwargs)
        sampling = self.sampling()
        history = self._beginning()
        failed = False
        with self.client() as client:
            # Ctrl-C is for the answer; a SIGTERM ends all, and the service ends the answer.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            served = ", ".join(model.name for model in client.models())
            _say(f"talking to {self.served_model or served}; {HELP}")
            for line in _lines():
                if line.strip() == "/clear":
                    history = self._beginning()
                    continue
                asked = [*history, ChatMessage("user", line)]
                request = Request(
                    messages=asked,
                    sampling=sampling,
                    model=self.served_model,
                    priority=self.priority,
                    tenant=self.tenant,
                    deadline_s=self.deadline_s,
                    cancel_on_disconnect=True,
                    chat_template_kwargs=template_kwargs,
                )
                try:
                    history = [*asked, ChatMessage("assistant", self._answer(client, request))]
                except StepserveError as error:
                    # What was refused is not part of the conversation.
                    failed = True
                    _say(f"{error}")
        return 1 if failed and not sys.stdin.isatty() else 0

    def _beginning(self) -> list[ChatMessage]:
        return [ChatMessage("system", self.system)] if self.system else []

    def _answer(self, client: Client, request: Request) -> str:
        """Show the answer as it comes and return it, as far as it came."""
        pieces: list[str] = []
        job_id = ""
        try:
            for event in client.generate(request):
                job_id = event.job_id
                pieces.append(event.text)
                if not self.as_json:
                    print(event.text, end="", flush=True)
                if event.finish is not None and event.finish.reason not in ("stop", "length"):
                    _say(f"[{event.finish.reason}: {event.finish.message}]")
        except KeyboardInterrupt:
            _say("[stopped]")
            if job_id:
                client.cancel(job_id)
        text = "".join(pieces)
        print(json.dumps({"job_id": job_id, "text": text}) if self.as_json else "", flush=True)
        return text


def _lines() -> Iterator[str]:
    """Yield what is typed, or piped, until it ends or says so."""
    if sys.stdin.isatty():
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 (a line can be edited then)
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "")
        except (EOFError, KeyboardInterrupt):
            print()
            return
        if line.strip() in ("/exit", "/quit"):
            return
        if line.strip():
            yield line


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
