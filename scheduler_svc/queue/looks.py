"""What a server says of itself, asked once for all who want to know."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from typing import Any

from scheduler_svc.queue.continuity import Continuity
from scheduler_svc.queue.server_check import Memory, memory_of
from scheduler_svc.queue.shard import Shard

log = logging.getLogger(__name__)


class Looks:
    """Each is one INFO, and sees who answers, too: a server that lacks what was written is a break.

    ``looked_s`` is when the last one was answered (monotonic). Raises Unavailable.
    """

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        self._info: Mapping[str, Any] = {}
        self.continuity = Continuity()
        self.num_breaks = 0
        self.looked_s = -math.inf

    async def look(self, most_s: float = 0.0) -> None:
        """Have looked, no longer ago than this."""
        if time.monotonic() - self.looked_s < most_s:
            return
        self._info = await self._shard.link.call("INFO")
        if self.continuity.note(self._info):
            log.warning(
                "Redis is another server, or was started again: it may lack its last writes"
            )
            self.num_breaks += 1
        self.looked_s = time.monotonic()

    async def memory(self, most_s: float = 0.0) -> Memory:
        """Return what it uses of what it may use, as of no longer ago."""
        await self.look(most_s)
        return memory_of(self._info)
