"""Records that an edge keeps beside jobs, with data or lines of their own: files, batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scheduler_svc.queue.link import Full
from scheduler_svc.queue.resp import Argument
from scheduler_svc.queue.shard import Shard
from stepserve.protocol.errors import Exhausted, Unavailable

_RETRY_AFTER_MS = 10_000
_PAGE = 512


class ShelfFull(Exhausted):
    """There is no memory left for what was to be kept."""


@dataclass(frozen=True, slots=True)
class Shelved:
    """A record as it stands; a change names the ``version`` that it changes."""

    record_id: str
    record: str
    version: int


class Shelf:
    """The records of one kind, in one shard. They expire ``ttl_s`` after their last change.

    Raises Unavailable when Redis does not serve, ShelfFull where it has no room.
    """

    def __init__(self, shard: Shard, kind: str) -> None:
        self._shard = shard
        self._kind = kind
        self._shelf = shard.keys.shelf(kind)

    async def put(
        self, record_id: str, record: str, *, version: int = 0, is_open: bool = False, ttl_s: int
    ) -> bool:
        """Store a new record, or change that ``version`` of it; False where it has another one.

        One that is open is told by ``open_ids``.
        """
        names = [
            self._key("record", record_id),
            self._shelf,
            f"{self._shelf}:open",
            self._key("data", record_id),
            self._key("lines", record_id),
        ]
        args: list[Argument] = [record_id, version, record, int(is_open), ttl_s]
        try:
            return bool(await self._shard.run("shelve", names, args, durable=True))
        except Full as error:
            raise _no_room() from error

    async def get(self, record_id: str) -> Shelved | None:
        """Return a record, None where there is none."""
        [found] = await self._records([record_id])
        return found

    async def some(self, record_ids: Sequence[str]) -> list[Shelved]:
        """Return those of the records that are there, in the order asked for."""
        found: list[Shelved] = []
        for start in range(0, len(record_ids), _PAGE):
            page = await self._records(record_ids[start : start + _PAGE])
            found += [record for record in page if record is not None]
        return found

    async def all(self) -> list[Shelved]:
        """Return every record, newest first; what expired is forgotten."""
        ids = [i.decode() for i in await self._shard.link.call("ZREVRANGE", self._shelf, 0, -1)]
        found = await self.some(ids)
        there = {record.record_id for record in found}
        for record_id in ids:
            if record_id not in there:
                await self.remove(record_id)
        return found

    async def open_ids(self) -> set[str]:
        """Return the ids of those that somebody is to work on."""
        members = await self._shard.link.call("SMEMBERS", f"{self._shelf}:open")
        return {member.decode() for member in members}

    async def remove(self, record_id: str) -> bool:
        """Drop a record and all of it; False where there was none."""
        parts = ("data", "lines", "minder")
        names = [
            self._key("record", record_id),
            self._shelf,
            f"{self._shelf}:open",
            *(self._key(part, record_id) for part in parts),
        ]
        return bool(await self._shard.run("unshelve", names, [record_id]))

    async def append(self, record_id: str, offset: int, data: bytes, ttl_s: int) -> None:
        """Add to a record's data, which has ``offset`` bytes."""
        try:
            names = [self._key("data", record_id)]
            done = await self._shard.run("fill", names, [offset, data, ttl_s], durable=True)
        except Full as error:
            raise _no_room() from error
        if not done:
            raise Unavailable("a file was written by two at once")

    async def read(self, record_id: str, offset: int, num_bytes: int) -> bytes:
        """Return some of a record's data; none from its end on."""
        key = self._key("data", record_id)
        found: bytes = await self._shard.link.call("GETRANGE", key, offset, offset + num_bytes - 1)
        return found

    async def jot(
        self, record_id: str, number: int, text: str, *, is_good: bool, ttl_s: int
    ) -> None:
        """Note what came of a line; the first note of one stays."""
        names = [self._key("record", record_id), self._key("lines", record_id)]
        count = "#good" if is_good else "#bad"
        try:
            await self._shard.run("jot", names, [number, count, text, ttl_s], durable=True)
        except Full as error:
            raise _no_room() from error

    async def jotted(self, record_id: str) -> set[int]:
        """Return the numbers of the lines of which something came."""
        fields = await self._shard.link.call("HKEYS", self._key("lines", record_id))
        return {int(field) for field in fields if field.isdigit()}

    async def counts(self, record_id: str) -> tuple[int, int]:
        """Return how many lines came out well, and how many did not."""
        key = self._key("lines", record_id)
        good, bad = await self._shard.link.call("HMGET", key, "#good", "#bad")
        return int(good or 0), int(bad or 0)

    async def lines(self, record_id: str, numbers: Sequence[int]) -> Mapping[int, str]:
        """Return what came of these lines, of those of which something did."""
        if not numbers:
            return {}
        found = await self._shard.link.call("HMGET", self._key("lines", record_id), *numbers)
        return {
            number: text.decode()
            for number, text in zip(numbers, found, strict=True)
            if text is not None
        }

    async def mind(self, record_id: str, who: str, ttl_ms: int) -> bool:
        """Say that ``who`` works on it for so long; False where somebody else does."""
        names = [self._key("minder", record_id)]
        return bool(await self._shard.run("mind", names, [who, ttl_ms]))

    def _key(self, part: str, record_id: str) -> str:
        return self._shard.keys.shelved(part, self._kind, record_id)

    async def _records(self, record_ids: Sequence[str]) -> list[Shelved | None]:
        if not record_ids:
            return []
        answers = await self._shard.link.pipeline(
            [("HMGET", self._key("record", i), "record", "version") for i in record_ids]
        )
        return [
            Shelved(record_id, record.decode(), int(version)) if record is not None else None
            for record_id, (record, version) in zip(record_ids, answers, strict=True)
        ]


def _no_room() -> ShelfFull:
    return ShelfFull("Redis has no memory left to keep this", _RETRY_AFTER_MS)
