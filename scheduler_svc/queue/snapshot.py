"""What can be told of a job: for GetJob and ListJobs."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from protos.job import Finish, JobSpec
from scheduler_svc.queue.codec import decode_finish, decode_spec
from scheduler_svc.queue.keys import Keys
from scheduler_svc.queue.link import Command, RedisLink

JobState = Literal["queued", "running", "ended"]

MAX_OUTPUTS = 16
_PAGE = 128


@dataclass(frozen=True, slots=True)
class OutputSnapshot:
    """One output: its length so far, and its end if it has one."""

    num_tokens: int
    finish: Finish | None


@dataclass(frozen=True, slots=True)
class JobSnapshot:
    """A job without its tokens: ``spec.prompt_token_ids`` is empty. ``ended_s`` 0: it goes on."""

    spec: JobSpec
    num_prompt_tokens: int
    state: JobState
    ended_s: float
    outputs: tuple[OutputSnapshot, ...]


async def read_snapshots(
    link: RedisLink, keys: Keys, job_ids: Sequence[str]
) -> list[JobSnapshot | None]:
    """In the order asked for; None for an unknown job."""
    commands: list[Command] = []
    fields = [f"f{index}" for index in range(MAX_OUTPUTS)]
    for job_id in job_ids:
        job = keys.job(job_id)
        commands.append(("HMGET", job, "spec", "n", "arrival", "deadline", "ended", *fields))
        commands.append(("HSTRLEN", job, "prompt"))
        commands.append(("ZSCORE", keys.queue, job_id))
    # Atomic: between queue and claim a job would otherwise show as something it never was.
    answers = await link.pipeline(commands, atomic=True)
    records = list(zip(job_ids, answers[::3], answers[1::3], answers[2::3], strict=True))
    lengths = iter(await _log_lengths(link, keys, [(i, int(r[1] or 0)) for i, r, _, _ in records]))
    return [_snapshot(record, size, score, lengths) for _, record, size, score in records]


async def _log_lengths(
    link: RedisLink, keys: Keys, outputs: Sequence[tuple[str, int]]
) -> list[int]:
    # Read after the finishes: a finished output then has its last token counted.
    logs = [keys.log(job_id, index) for job_id, n in outputs for index in range(n)]
    return await link.pipeline([("STRLEN", log) for log in logs])


def _snapshot(
    record: list[Any], prompt_bytes: int, score: Any, lengths: Iterator[int]
) -> JobSnapshot | None:
    spec, n, arrival, deadline, ended, *finishes = record
    if spec is None:
        return None
    state: JobState = "ended" if ended else "running" if score is None else "queued"
    return JobSnapshot(
        spec=decode_spec(spec, b"", arrival, deadline),
        num_prompt_tokens=prompt_bytes // 4,
        state=state,
        ended_s=float(ended or 0),
        outputs=tuple(
            OutputSnapshot(next(lengths) // 4, decode_finish(finish) if finish else None)
            for finish in finishes[: int(n)]
        ),
    )


async def list_snapshots(
    link: RedisLink, keys: Keys, state: JobState | None
) -> AsyncIterator[JobSnapshot]:
    """The shard's jobs, newest first (ended ones: last ended first), read page by page."""
    if state in ("queued", "running"):
        pages = _pages_of(await _live_ids(link, keys, state))
    else:
        pages = _pages_by_rank(link, keys.ended if state == "ended" else keys.jobs)
    async for job_ids in pages:
        for snapshot in await read_snapshots(link, keys, job_ids):
            if snapshot is not None and state in (None, snapshot.state):
                yield snapshot


async def _live_ids(link: RedisLink, keys: Keys, state: JobState) -> list[str]:
    """Of the jobs that wait, or of those that are claimed; newest first."""
    sets = [keys.queue]
    if state == "running":
        sets = [keys.claims(w.decode()) for w in await link.call("ZRANGE", keys.workers, 0, -1)]
    answers = await link.pipeline([("ZRANGE", name, 0, -1) for name in sets])
    ids = [job_id for answer in answers for job_id in answer]
    if not ids:
        return []
    arrivals = dict(zip(ids, await link.call("ZMSCORE", keys.jobs, *ids), strict=True))
    ids.sort(key=lambda job_id: float(arrivals[job_id] or 0), reverse=True)
    return [job_id.decode() for job_id in ids]


async def _pages_of(job_ids: Sequence[str]) -> AsyncIterator[Sequence[str]]:
    for start in range(0, len(job_ids), _PAGE):
        yield job_ids[start : start + _PAGE]


async def _pages_by_rank(link: RedisLink, index: str) -> AsyncIterator[Sequence[str]]:
    seen: set[str] = set()  # jobs that arrive meanwhile shift the ranks
    for start in itertools.count(0, _PAGE):
        page = [i.decode() for i in await link.call("ZREVRANGE", index, start, start + _PAGE - 1)]
        if not page:
            return
        yield [job_id for job_id in page if job_id not in seen]
        seen.update(page)
