"""``stepserve generate PROMPT``: stream a continuation to the terminal."""

from __future__ import annotations

from stepserve.client.blocking import Client
from stepserve.commands.options import Connection, Prompting, show


class Generate(Connection, Prompting):
    """Stream the continuation of a prompt ("-": read it from standard input)."""

    def run(self) -> int:
        """Stream; return 0 where the output ended by itself, 1 after an error."""
        with Client(self.target) as client:
            return show(client.generate(self.request()), self.n or 1)
