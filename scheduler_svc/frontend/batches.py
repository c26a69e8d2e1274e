"""Batches: files of requests that are answered in a day, whatever happens meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from time import time
from typing import Any
from uuid import uuid4

from pydantic import ConfigDict, with_config

from scheduler_svc.frontend.files import DEFAULT_TTL_S
from scheduler_svc.queue import JobQueue
from stepserve.protocol.errors import Exhausted, NotFound, Unavailable

WINDOW_S = 86_400
MINDER_TTL_MS = 10_000
MAX_BATCHES = 10_000
_RETRY_AFTER_MS = 60_000
_OPEN = ("validating", "in_progress", "finalizing", "cancelling")
_MAX_ATTEMPTS = 20


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True, slots=True)
class Batch:
    """How a batch stands. ``times`` are when it came to each state, seconds since the epoch.

    ``errors`` say what is wrong with its file, each with a message and maybe a line. ``key_id``
    names the API key that its lines are asked with, "" where there was none.
    """

    batch_id: str
    tenant: str
    endpoint: str
    input_file_id: str
    status: str = "validating"
    created_s: int = 0
    expires_s: int = 0
    metadata: Mapping[str, str] = field(default_factory=dict)
    times: Mapping[str, int] = field(default_factory=dict)
    total: int = 0
    completed: int = 0
    failed: int = 0
    output_file_id: str = ""
    error_file_id: str = ""
    errors: Sequence[Mapping[str, Any]] = ()
    key_id: str = ""

    @property
    def is_open(self) -> bool:
        """Whether there is something to be done for it."""
        return self.status in _OPEN

    def come_to(self, status: str) -> Batch:
        """Return it in another state, as of now."""
        return replace(self, status=status, times={**self.times, status: int(time())})


class Batches:
    """Keeps batches and what came of their lines; any replica works on any of them.

    Raises NotFound for a batch that is not the tenant's, Exhausted where there is no room.
    """

    def __init__(self, queue: JobQueue) -> None:
        self._shelf = queue.shelf("batch", Batch)
        self._who = uuid4().hex
        # Of the open ones that were seen last.
        self._tenants: Mapping[str, str] = {}

    async def keep(self, batch: Batch) -> None:
        """Store a new batch, which is worked on from now on."""
        if len(await self._shelf.all()) >= MAX_BATCHES:
            raise Exhausted(f"there are {MAX_BATCHES} batches already", _RETRY_AFTER_MS)
        await self._put(batch, 0)

    async def get(self, batch_id: str, tenant: str) -> Batch:
        """Return a batch of the tenant's, with its counts as they are now."""
        batch = await self.look(batch_id)
        if batch is None or batch.tenant != tenant:
            raise NotFound(f"batch {batch_id[:100]!r} is not known here")
        return batch

    async def look(self, batch_id: str) -> Batch | None:
        """Return anybody's batch, None where there is none."""
        found = await self._shelf.get(batch_id)
        if found is None:
            return None
        [batch] = await self._counted([found.record])
        return batch

    async def all(self, tenant: str) -> list[Batch]:
        """Return the tenant's batches, newest first."""
        batches = [found.record for found in await self._shelf.all()]
        return await self._counted([batch for batch in batches if batch.tenant == tenant])

    async def open_ids(self) -> set[str]:
        """Return the batches for which something is to be done."""
        return await self._shelf.open_ids()

    async def tenants(self, batch_ids: Set[str]) -> Mapping[str, str]:
        """Return whose these batches are, of those that are there and can be read."""
        known = {i: tenant for i, tenant in self._tenants.items() if i in batch_ids}
        found = await self._shelf.some(sorted(batch_ids - known.keys()))
        self._tenants = {**known, **{each.record_id: each.record.tenant for each in found}}
        return self._tenants

    async def change(self, batch_id: str, change: Callable[[Batch], Batch]) -> Batch | None:
        """Change a batch as it stands, again where another one did so meanwhile.

        ``change`` may return what it was given. None where there is no such batch.
        """
        for _ in range(_MAX_ATTEMPTS):
            found = await self._shelf.get(batch_id)
            if found is None:
                return None
            batch = change(found.record)
            if batch == found.record or await self._put(batch, found.version):
                return await self.look(batch_id)
        raise Unavailable(f"batch {batch_id} is changed by too many at once")

    async def is_ours(self, batch_id: str) -> bool:
        """Whether this process may work on it for now, since nobody else does."""
        return await self._shelf.mind(batch_id, self._who, MINDER_TTL_MS)

    async def note(self, batch_id: str, number: int, text: str, *, is_good: bool) -> None:
        """Keep what came of a line, once."""
        await self._shelf.jot(batch_id, number, text, is_good=is_good, ttl_s=DEFAULT_TTL_S)

    async def noted(self, batch_id: str) -> set[int]:
        """Return the numbers of the lines that are done."""
        return await self._shelf.jotted(batch_id)

    async def notes(self, batch_id: str, numbers: Sequence[int]) -> Mapping[int, str]:
        """Return what came of lines."""
        return await self._shelf.lines(batch_id, numbers)

    async def _counted(self, batches: Sequence[Batch]) -> list[Batch]:
        counts = await self._shelf.counts([batch.batch_id for batch in batches])
        return [
            replace(batch, completed=completed, failed=failed)
            for batch, (completed, failed) in zip(batches, counts, strict=True)
        ]

    async def _put(self, batch: Batch, version: int) -> bool:
        return await self._shelf.put(
            batch.batch_id,
            batch,
            version=version,
            is_open=batch.is_open,
            ttl_s=DEFAULT_TTL_S,
        )


def new_batch(
    tenant: str, endpoint: str, input_file_id: str, metadata: Mapping[str, str], key_id: str = ""
) -> Batch:
    """Return a batch that begins now."""
    now = int(time())
    return Batch(
        batch_id=f"batch_{uuid4().hex}",
        tenant=tenant,
        endpoint=endpoint,
        input_file_id=input_file_id,
        created_s=now,
        expires_s=now + WINDOW_S,
        metadata=metadata,
        key_id=key_id,
    )
