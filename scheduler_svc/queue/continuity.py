"""Whether who answers is the server that has all that was written."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any


class Continuity:
    """Notes which server answers.

    A replica that was promoted, or a server that was started again, may lack the last of what
    was written: that is a break. A server's id says of which start it is, its replication's id of
    which promotion. Times are of the monotonic clock.
    """

    def __init__(self) -> None:
        self._server: tuple[Any, Any] | None = None
        self._broken_s = -math.inf

    def note(self, info: Mapping[str, Any]) -> bool:
        """Take note of what INFO answered; whether this is a break."""
        server = info.get("run_id"), info.get("master_replid")
        is_break = self._server not in (None, server)
        self._server = server
        if is_break:
            self._broken_s = time.monotonic()
        return is_break

    def is_broken_since(self, time_s: float) -> bool:
        """Whether a break was seen later than that."""
        return self._broken_s > time_s
