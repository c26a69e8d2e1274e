"""Lists of jobs, newest first, that go on where they were whatever comes and ends meanwhile."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

from scheduler_svc.queue.codec import Corrupt
from scheduler_svc.queue.shard import Shard
from scheduler_svc.queue.snapshot import JobSnapshot, JobState, read_records, snapshot_of

_PAGE = 128

log = logging.getLogger(__name__)


class Place(NamedTuple):
    """A job in a list: its turn, or when it ended where only ended ones are listed; and its id.

    Lists are ordered by both, downwards.
    """

    score: float
    job_id: str


async def list_snapshots(
    shard: Shard, state: JobState | None, after: Place | None = None
) -> AsyncIterator[tuple[Place, JobSnapshot]]:
    """The shard's jobs, newest first (ended ones: last ended first), read page by page.

    Only those behind ``after``. One that can't be read is passed over: it must not hide the
    others.
    """
    if state in ("queued", "running"):
        pages = _pages_of(await _live_places(shard, state), after)
    else:
        keys = shard.keys
        pages = _pages_by_score(shard, keys.ended if state == "ended" else keys.jobs, after)
    async for page in pages:
        places = {place.job_id: place for place in page}
        for record in await read_records(shard, list(places)):
            try:
                snapshot = snapshot_of(record)
            except Corrupt as error:
                log.error("job %s cannot be listed: %s", record.job_id, error)
                continue
            if state in (None, snapshot.state):
                yield places[record.job_id], snapshot


async def merged(
    listings: Sequence[AsyncIterator[tuple[Place, JobSnapshot]]],
) -> AsyncIterator[tuple[Place, JobSnapshot]]:
    """Several shards' jobs as one list, newest first."""
    heads = {i: head for i, jobs in enumerate(listings) if (head := await anext(jobs, None))}
    while heads:
        newest = max(heads, key=lambda i: heads[i][0])
        yield heads[newest]
        if (head := await anext(listings[newest], None)) is None:
            del heads[newest]
        else:
            heads[newest] = head


async def list_page(
    listing: AsyncIterator[tuple[Place, JobSnapshot]], tenant: str, limit: int
) -> tuple[list[JobSnapshot], Place | None]:
    """At most so many of a list, of a tenant where one is named; and the last, if more follow."""
    found: list[JobSnapshot] = []
    last: Place | None = None
    async for place, snapshot in listing:
        if tenant and snapshot.spec.tenant != tenant:
            continue
        if len(found) == limit:
            return found, last
        found.append(snapshot)
        last = place
    return found, None


async def _live_places(shard: Shard, state: JobState) -> list[Place]:
    """Of the jobs that wait, or of those that are claimed; newest first."""
    link, keys = shard.link, shard.keys
    sets = [keys.queue]
    if state == "running":
        sets = [keys.claims(w.decode()) for w in await link.call("ZRANGE", keys.workers, 0, -1)]
    answers = await link.pipeline([("ZRANGE", name, 0, -1) for name in sets])
    ids = [job_id for answer in answers for job_id in answer]
    if not ids:
        return []
    turns = await link.call("ZMSCORE", keys.jobs, *ids)
    places = (Place(float(turn or 0), i.decode()) for turn, i in zip(turns, ids, strict=True))
    return sorted(places, reverse=True)


async def _pages_of(places: Sequence[Place], after: Place | None) -> AsyncIterator[Sequence[Place]]:
    rest = [place for place in places if after is None or place < after]
    for start in range(0, len(rest), _PAGE):
        yield rest[start : start + _PAGE]


async def _pages_by_score(
    shard: Shard, index: str, after: Place | None
) -> AsyncIterator[Sequence[Place]]:
    num_seen = 0  # of those that are at the same score as ``after``, or come before it
    while True:
        start = num_seen
        if after is not None:
            start += await shard.link.call("ZCOUNT", index, f"({after.score!r}", "+inf")
        answer = await shard.link.call("ZREVRANGE", index, start, start + _PAGE - 1, "WITHSCORES")
        if not answer:
            return
        pairs = zip(answer[::2], answer[1::2], strict=True)
        found = [Place(float(score), job_id.decode()) for job_id, score in pairs]
        page = [place for place in found if after is None or place < after]
        if page:
            yield page
            after, num_seen = page[-1], 0
        else:
            num_seen += len(found)
