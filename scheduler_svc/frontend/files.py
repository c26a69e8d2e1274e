"""Files that clients hand in for batches, and those that batches come to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from time import time
from uuid import uuid4

from pydantic import ConfigDict, with_config

from scheduler_svc.queue import JobQueue
from stepserve.protocol.errors import Exhausted, NotFound

MAX_FILE_BYTES = 64 * 1024 * 1024
MAX_FILES_BYTES = 512 * 1024 * 1024
MAX_FILES = 10_000
# A batch has a day, and what came of it is read after that.
DEFAULT_TTL_S = 7 * 86_400
CHUNK_BYTES = 256 * 1024
_RETRY_AFTER_MS = 60_000


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True, slots=True)
class File:
    """A file without its content. Times are seconds since the epoch."""

    file_id: str
    tenant: str
    name: str
    purpose: str
    size_bytes: int
    created_s: int
    expires_s: int


class Files:
    """Keeps files, bounded all together; every replica has them.

    Raises NotFound for a file that is not the tenant's, Exhausted where there is no room.
    """

    def __init__(self, queue: JobQueue) -> None:
        self._shelf = queue.shelf("file", File)

    async def check_room(self, size_bytes: int) -> None:
        """Raise Exhausted where there is none for so much more."""
        files = [found.record for found in await self._shelf.all()]
        if len(files) >= MAX_FILES:
            raise Exhausted(f"there are {MAX_FILES} files already", _RETRY_AFTER_MS)
        if sum(file.size_bytes for file in files) + size_bytes > MAX_FILES_BYTES:
            problem = f"all files together have at most {MAX_FILES_BYTES} bytes"
            raise Exhausted(problem, _RETRY_AFTER_MS)

    async def keep(self, file: File, content: AsyncIterator[bytes]) -> File:
        """Store a file and what is in it; the record comes last, so that none is half there."""
        ttl_s = max(1, file.expires_s - int(time()))
        size = 0
        async for chunk in content:
            await self._shelf.append(file.file_id, size, chunk, ttl_s)
            size += len(chunk)
        kept = replace(file, size_bytes=size)
        await self._shelf.put(file.file_id, kept, ttl_s=ttl_s)
        return kept

    async def get(self, file_id: str, tenant: str) -> File:
        """Return a file of the tenant's."""
        found = await self._shelf.get(file_id)
        if found is None or found.record.tenant != tenant:
            raise NotFound(f"file {file_id[:100]!r} is not known here")
        return found.record

    async def all(self, tenant: str) -> list[File]:
        """Return the tenant's files, newest first."""
        files = [found.record for found in await self._shelf.all()]
        return [file for file in files if file.tenant == tenant]

    async def content(self, file: File) -> AsyncIterator[bytes]:
        """Yield what is in a file, in pieces."""
        offset = 0
        while piece := await self._shelf.read(file.file_id, offset, CHUNK_BYTES):
            offset += len(piece)
            yield piece

    async def delete(self, file_id: str, tenant: str) -> None:
        """Forget a file of the tenant's."""
        await self.get(file_id, tenant)
        await self._shelf.remove(file_id)

    async def forget_half(self, file_id: str) -> None:
        """Drop what is there of a file that was to be written anew."""
        await self._shelf.remove(file_id)


def new_file(tenant: str, name: str, purpose: str, ttl_s: int, file_id: str = "") -> File:
    """Return a file that is still empty."""
    now = int(time())
    given = file_id or f"file-{uuid4().hex}"
    return File(given, tenant, name, purpose, 0, now, now + ttl_s)
