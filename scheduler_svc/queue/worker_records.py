"""Who drives which worker now, as the leases say."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence

from scheduler_svc.queue.codec import RECORD_ERRORS, Corrupt
from scheduler_svc.queue.lease import WorkerRecord
from scheduler_svc.queue.link import Command
from scheduler_svc.queue.shard import Shard

log = logging.getLogger(__name__)

# What a lane tells of its worker that is a number.
_NUMBERS = ("max_context", "places", "num_blocks", "block_size")
_FIELDS = ("holder", "epoch", "info", "step_us", "expires", "ttl", "used")


async def live_workers(shard: Shard) -> list[WorkerRecord]:
    """The workers whose leases are good now; one whose record is broken is not among them."""
    link, keys = shard.link, shard.keys
    names = [worker_id.decode() for worker_id in await link.call("ZRANGE", keys.workers, 0, -1)]
    # The time last: none of these was renewed after it.
    *leases, time = await link.each([*(ask(shard, name) for name in names), ("TIME",)])
    now_ms = milliseconds(time)
    found = [record(shard, *each, now_ms) for each in zip(names, leases, strict=True)]
    return [worker for worker in found if worker is not None]


def ask(shard: Shard, name: str) -> Command:
    """Return the command whose answer ``record`` takes."""
    return ("HMGET", shard.keys.lease(name), *_FIELDS)


def milliseconds(time: Sequence[int]) -> float:
    """What TIME answered, in milliseconds since the epoch."""
    seconds, microseconds = time
    return seconds * 1e3 + microseconds / 1e3


def record(
    shard: Shard, name: str, fields: Sequence[bytes | None] | Corrupt, now_ms: float
) -> WorkerRecord | None:
    """Return what a lease says; None where it is not good now, or broken, which is logged once."""
    try:
        if isinstance(fields, Corrupt):
            raise fields
        worker = _decode(name, fields, now_ms)
    except RECORD_ERRORS as error:
        if name not in shard.broken_leases:
            log.error("the lease of worker %s cannot be read, it counts as none: %s", name, error)
        shard.broken_leases.add(name)
        return None
    shard.broken_leases.discard(name)
    return worker


def _decode(name: str, fields: Sequence[bytes | None], now_ms: float) -> WorkerRecord | None:
    holder, epoch, info, step_us, expires, ttl, used = fields
    if not holder or not _is_good(int(expires or 0) - now_ms, ttl):
        return None
    told = json.loads(info or b"")
    if not isinstance(told, dict) or not all(isinstance(value, str) for value in told.values()):
        raise Corrupt("what its lane told is no mapping of texts")
    for number in _NUMBERS:
        int(told.get(number, 0))
    return WorkerRecord(
        worker_id=name,
        holder=holder.decode(),
        epoch=int(epoch or b""),
        expires_s=int(expires or 0) / 1000,
        info=told,
        step_us=int(step_us or 0),
        num_used_blocks=int(used or 0),
    )


def _is_good(left_ms: float, ttl: bytes | None) -> bool:
    """Whether a lease that expires in ``left_ms`` is good now, as the scripts have it.

    Further ahead than its time to live (None: of a version that wrote none) no living one
    expires.
    """
    return left_ms > 0 and (ttl is None or left_ms <= int(ttl) + 1)
