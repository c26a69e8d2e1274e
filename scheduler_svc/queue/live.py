"""What lanes show while somebody looks: a short stream, and a key that says that somebody does."""

from __future__ import annotations

from collections.abc import Sequence

from scheduler_svc.queue.shard import Shard

# Some seconds of the frames of a few lanes; who falls behind sees the newest.
MAX_FRAMES = 256
KEPT_MS = 10_000
_MAX_READ = 64


class Live:
    """One shard's. Nothing is kept: frames go with the last who looked."""

    def __init__(self, shard: Shard) -> None:
        self._shard = shard

    async def watch(self, ttl_ms: int) -> None:
        """Say that somebody looks, for so long."""
        await self._shard.link.call("SET", self._shard.keys.watched, 1, "PX", ttl_ms)

    async def is_watched(self) -> bool:
        """Whether anybody looks."""
        return bool(await self._shard.link.call("EXISTS", self._shard.keys.watched))

    async def show(self, frames: Sequence[bytes]) -> None:
        """Show these to all who look."""
        name = self._shard.keys.live
        added = [("XADD", name, "MAXLEN", "~", MAX_FRAMES, "*", "frame", each) for each in frames]
        await self._shard.link.pipeline([*added, ("PEXPIRE", name, KEPT_MS)])

    async def newest(self) -> str:
        """Where to look from so as to see what is shown from now on."""
        entries = await self._shard.link.call(
            "XREVRANGE", self._shard.keys.live, "+", "-", "COUNT", 1
        )
        return entries[0][0].decode() if entries else "0-0"

    async def frames(self, after: str) -> tuple[str, list[bytes]]:
        """Return what was shown after an entry, and after which one to go on."""
        answer = await self._shard.link.call(
            "XREAD", "COUNT", _MAX_READ, "STREAMS", self._shard.keys.live, after
        )
        if not answer:
            return after, []
        entries = answer[0][1]
        return entries[-1][0].decode(), [fields[b"frame"] for _, fields in entries]
