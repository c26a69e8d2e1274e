"""``stepserve generate PROMPT``: stream a continuation to the terminal."""

from __future__ import annotations

from stepserve.commands.connection import Connection
from stepserve.commands.prompting import Prompting
from stepserve.commands.streams import show, view


class Generate(Prompting, Connection):
    """Stream the continuation of a prompt ("-": read it from standard input).

    The text goes to standard output, how it ended to standard error. Several outputs (--n) are
    shown one after another, each when it has ended. A command that is interrupted ends no
    job: it says how to come back to it.
    """

    def run(self) -> int:
        """Stream; return 0 where the output ended by itself, 1 after an error."""
        request = self.request()
        with self.client() as client:
            shown = view(self.n or 1, as_json=self.as_json)
            return show(client.generate(request), shown, self.same_target())
