"""Records that an edge keeps beside jobs, with data or lines of their own: files, batches."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from pydantic import TypeAdapter

from scheduler_svc.queue.codec import RECORD_ERRORS, Corrupt, decode_count, told
from scheduler_svc.queue.link import Full
from scheduler_svc.queue.resp import Argument
from scheduler_svc.queue.shard import Shard
from stepserve.protocol.errors import Exhausted, Unavailable

_RETRY_AFTER_MS = 10_000
_PAGE = 512

T = TypeVar("T")

log = logging.getLogger(__name__)


class ShelfFull(Exhausted):
    """There is no memory left for what was to be kept."""


@dataclass(frozen=True, slots=True)
class Shelved(Generic[T]):
    """A record as it stands; a change names the ``version`` that it changes."""

    record_id: str
    record: T
    version: int


class Shelf(Generic[T]):
    """The records of one kind, in one shard. They expire ``ttl_s`` after their last change.

    Raises Unavailable when Redis does not serve, ShelfFull where it has no room.
    """

    def __init__(self, shard: Shard, kind: str, of: type[T]) -> None:
        self._shard = shard
        self._kind = kind
        self._form = TypeAdapter(of)
        self._shelf = shard.keys.shelf(kind)
        self._broken: set[str] = set()

    async def put(
        self, record_id: str, record: T, *, version: int = 0, is_open: bool = False, ttl_s: int
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
        stored = self._form.dump_json(record)
        args: list[Argument] = [record_id, version, stored, int(is_open), ttl_s]
        try:
            return bool(await self._shard.run("shelve", names, args, durable=True))
        except Full as error:
            raise _no_room() from error

    async def get(self, record_id: str) -> Shelved[T] | None:
        """Return a record, None where there is none. Raises Corrupt where it can't be read."""
        [found] = await self._records([record_id])
        if isinstance(found, Corrupt):
            raise found
        return found

    async def some(self, record_ids: Sequence[str]) -> list[Shelved[T]]:
        """Return those of the records that are there, in the order asked for.

        One that can't be read is passed over, and that is said once: it hides no other.
        """
        found = await self._records(record_ids)
        return [one for one in found if isinstance(one, Shelved)]

    async def all(self) -> list[Shelved[T]]:
        """Return every record, newest first; what expired is forgotten. Passes over as ``some``."""
        ids = [i.decode() for i in await self._shard.link.call("ZREVRANGE", self._shelf, 0, -1)]
        found = await self._records(ids)
        for record_id, one in zip(ids, found, strict=True):
            if one is None:
                await self.remove(record_id)
        return [one for one in found if isinstance(one, Shelved)]

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

    async def counts(self, record_ids: Sequence[str]) -> list[tuple[int, int]]:
        """Return of each how many lines came out well, and how many did not."""
        names = [self._key("lines", record_id) for record_id in record_ids]
        counts = await self._shard.link.records(names, "#good", "#bad")
        return [(decode_count(good), decode_count(bad)) for good, bad in counts]

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

    async def _records(self, record_ids: Sequence[str]) -> list[Shelved[T] | Corrupt | None]:
        found: list[Shelved[T] | Corrupt | None] = []
        for start in range(0, len(record_ids), _PAGE):
            page = record_ids[start : start + _PAGE]
            commands = [("HMGET", self._key("record", i), "record", "version") for i in page]
            answers = await self._shard.link.each(commands)
            found += map(self._shelved, page, answers)
        return found

    def _shelved(
        self, record_id: str, answer: Sequence[bytes | None] | Corrupt
    ) -> Shelved[T] | Corrupt | None:
        try:
            if isinstance(answer, Corrupt):
                raise answer
            record, version = answer
            if record is None:
                return None
            return Shelved(record_id, self._form.validate_json(record), int(version or b""))
        except RECORD_ERRORS as error:
            broken = Corrupt(f"the stored {self._kind} {record_id} cannot be read: {told(error)}")
        if record_id not in self._broken:
            self._broken.add(record_id)
            log.error("%s", broken)
        return broken


def _no_room() -> ShelfFull:
    return ShelfFull("Redis has no memory left to keep this", _RETRY_AFTER_MS)
