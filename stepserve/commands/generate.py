"""``stepserve generate PROMPT``: stream a continuation to the terminal."""

from __future__ import annotations

import sys

from pydantic import Field
from pydantic_settings import CliPositionalArg

from stepserve.client import Client
from stepserve.commands.options import Connection, Prompting, show


class Generate(Connection, Prompting):
    """Stream the continuation of a prompt ("-": read it from standard input)."""

    prompt: CliPositionalArg[str] = Field(description='what to continue, or "-"')
    chat: bool = Field(False, description="send the prompt as a user's chat message")

    def run(self) -> int:
        """Stream; return 0 where the output ended by itself, 1 after an error."""
        text = sys.stdin.read() if self.prompt == "-" else self.prompt
        with Client(self.target) as client:
            return show(client.generate(self.request(text, chat=self.chat)))
