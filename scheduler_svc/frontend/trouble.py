"""What goes wrong again and again, said once."""

from __future__ import annotations

import logging


class Trouble:
    """Logs errors of what is done over and over: each when it comes, and that it has gone."""

    def __init__(self, log: logging.Logger, what: str) -> None:
        self._log = log
        self._what = what
        self._said = ""

    def is_there(self, error: Exception) -> None:
        """It has just failed."""
        text = f"{type(error).__name__}: {error}"
        if text != self._said:
            self._log.error("%s: %s", self._what, text, exc_info=error)
        self._said = text

    def is_gone(self) -> None:
        """It has just gone well."""
        if self._said:
            self._log.info("%s: no more", self._what)
        self._said = ""
