"""What all schedulers know of workers, of every model: one registry in a Redis."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pydantic import TypeAdapter, ValidationError

from scheduler_svc.queue.keys import REGISTRY_SEEN, REGISTRY_TOLD
from scheduler_svc.queue.resp import Argument
from scheduler_svc.queue.shard import Shard
from scheduler_svc.queue.worker_records import milliseconds
from stepserve.protocol.worker_status import WorkerStatus

log = logging.getLogger(__name__)

# Of a worker that nobody hears of any more, the entry is kept for so long.
KEEP_S = 60.0
# Somebody who said that he drives a worker, and is silent for so long, does not.
FRESH_S = 10.0
# Redis does nothing else for about a millisecond meanwhile.
_MAX_TOLD = 128

_STATUS = TypeAdapter(WorkerStatus)


@dataclass(frozen=True, slots=True)
class Sighting:
    """What one scheduler tells of a worker that answered it ``age_s`` ago."""

    status: WorkerStatus
    age_s: float


class Registry:
    """Entries expire when nobody renews them. Nothing is decided by what stands here."""

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        self._broken: set[str] = set()

    async def tell(self, who: str, sightings: Sequence[Sighting]) -> None:
        """Write what ``who`` knows. The word of whoever drives a worker goes before others'."""
        for start in range(0, len(sightings), _MAX_TOLD):
            args: list[Argument] = [who, int(KEEP_S * 1000), int(FRESH_S * 1000)]
            for each in sightings[start : start + _MAX_TOLD]:
                status = each.status
                told = _STATUS.dump_json(status, exclude_defaults=True)
                args += [status.worker_id, status.driver, int(each.age_s * 1000), told]
            await self._shard.run("enrol", [REGISTRY_TOLD, REGISTRY_SEEN], args)

    async def workers(self) -> list[WorkerStatus]:
        """Return all entries, by model and address; what can't be read is passed over."""
        entries, seen, time = await self._shard.link.pipeline(
            [
                ("HGETALL", REGISTRY_TOLD),
                ("ZRANGE", REGISTRY_SEEN, 0, -1, "WITHSCORES"),
                ("TIME",),
            ]
        )
        now_ms, found = milliseconds(time), []
        for name, seen_ms in zip(seen[::2], seen[1::2], strict=True):
            if now_ms - float(seen_ms) < KEEP_S * 1000 and name in entries:
                status = self._status(name.decode(errors="replace"), entries[name], now_ms)
                found += [replace(status, seen_s=float(seen_ms) / 1000)] if status else []
        return sorted(found, key=lambda each: (each.model, each.worker_id))

    def _status(self, name: str, entry: bytes, now_ms: float) -> WorkerStatus | None:
        """Return what was told; not that somebody drives it who has fallen silent."""
        try:
            when_ms, _, told = entry.split(b"\n", 2)
            status = _STATUS.validate_json(told)
            is_fresh = abs(now_ms - float(when_ms)) < FRESH_S * 1000
        except (ValueError, ValidationError) as error:
            if name not in self._broken:
                log.error("the registry's entry of worker %s cannot be read: %s", name, error)
            self._broken.add(name)
            return None
        return status if is_fresh else replace(status, driver="", driven_since_s=0.0)
