"""Shows what a process's lanes do, while somebody looks."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from scheduler_svc.core.config import CoreConfig
from scheduler_svc.live.picture import Picture
from scheduler_svc.metrics.latencies import Latencies
from scheduler_svc.queue import JobQueue
from stepserve.metrics.histogram import Histogram
from stepserve.protocol.errors import Unavailable

log = logging.getLogger(__name__)

# How often to see whether anybody looks, and how often to show what happened meanwhile.
LOOK_INTERVAL_S = 0.5
FRAME_INTERVAL_S = 0.1


class Broadcast:
    """The pictures of a process's lanes; ``run`` must run, or nobody sees them.

    While nobody looks it costs a question to Redis now and then, and a lane's turn a call.
    """

    def __init__(self) -> None:
        self.is_watched = False
        self._pictures: set[Picture] = set()

    @contextmanager
    def lane(self, worker_id: str, config: CoreConfig) -> Iterator[Picture]:
        """Yield what observes a lane for the time of the block."""
        picture = Picture(worker_id, config, lambda: self.is_watched)
        self._pictures.add(picture)
        try:
            yield picture
        finally:
            self._pictures.discard(picture)

    async def run(self, queue: JobQueue, holder: str, latencies: Latencies) -> None:
        """Show what there is to see until cancelled. What fails here is no lane's trouble."""
        asked_s, said = float("-inf"), ""
        while True:
            try:
                now_s = time.monotonic()
                if now_s - asked_s >= LOOK_INTERVAL_S:
                    asked_s = now_s
                    self.is_watched = await queue.live.is_watched()
                    if self.is_watched:
                        await queue.live.show([_line(_latency_frame(holder, latencies))])
                if self.is_watched and (frames := self._frames(holder)):
                    await queue.live.show(frames)
                said = ""
            except Unavailable:
                self.is_watched = False
            except Exception as error:
                self.is_watched = False
                if str(error) != said:
                    log.exception("the live page is shown nothing")
                said = str(error)
            await asyncio.sleep(FRAME_INTERVAL_S if self.is_watched else LOOK_INTERVAL_S)

    def _frames(self, holder: str) -> list[bytes]:
        at_ms = int(time.time() * 1000)
        frames = [picture.frame() for picture in self._pictures]
        return [_line({"holder": holder, "at": at_ms, **frame}) for frame in frames if frame]


def _latency_frame(holder: str, latencies: Latencies) -> dict[str, Any]:
    return {
        "holder": holder,
        "at": int(time.time() * 1000),
        "first_token_s": _spread(latencies.first_token_s),
        "between_tokens_s": _spread(latencies.between_tokens_s),
        "output_tokens": latencies.num_output_tokens,
    }


def _spread(histogram: Histogram) -> dict[str, Any]:
    return {"bounds": histogram.bounds, "counts": histogram.counts}


def _line(frame: dict[str, Any]) -> bytes:
    return json.dumps(frame, separators=(",", ":")).encode()
