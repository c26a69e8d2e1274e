"""What can be told of a job: for GetJob and ListJobs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from scheduler_svc.queue.codec import (
    RECORD_ERRORS,
    Corrupt,
    decode_count,
    decode_finish,
    decode_known,
    decode_spec,
    unpack_u32,
)
from scheduler_svc.queue.shard import Shard
from scheduler_svc.queue.stranding import notes_of
from stepserve.protocol.job import Finish, JobSpec

JobState = Literal["queued", "running", "ended"]

# Of the script "look", where a record makes no sense to it.
_UNREADABLE = (None,) * 10


@dataclass(frozen=True, slots=True)
class OutputSnapshot:
    """One output: its length so far, and its end if it has one."""

    num_tokens: int
    finish: Finish | None


@dataclass(frozen=True, slots=True)
class JobSnapshot:
    """A job without its tokens: ``spec.prompt_token_ids`` is empty. ``ended_s`` 0: it goes on.

    ``note``: what keeps a queued job waiting, where that is not its turn alone. ``queued_s``:
    how long it waited until it was first claimed, or has so far; None where nobody noted it, and
    so ``num_cached``: tokens of the prompt that needed no computing, known from the first token.
    """

    spec: JobSpec
    num_prompt_tokens: int
    state: JobState
    ended_s: float
    outputs: tuple[OutputSnapshot, ...]
    note: str = ""
    queued_s: float | None = None
    num_cached: int | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """What Redis has of a job: the answer of the script "look", and its logs' sizes in bytes."""

    job_id: str
    fields: Sequence[Any]
    log_sizes: list[int]
    note: str


def stored_now(spec: JobSpec) -> JobSnapshot:
    """What would be read of a job that was stored a moment ago, without asking for it."""
    return JobSnapshot(
        spec=replace(spec, prompt_token_ids=()),
        num_prompt_tokens=len(spec.prompt_token_ids),
        state="queued",
        ended_s=0.0,
        outputs=(OutputSnapshot(num_tokens=0, finish=None),) * spec.sampling.n,
    )


async def read_snapshot(shard: Shard, job_id: str) -> JobSnapshot | None:
    """None for an unknown job. Raises Corrupt."""
    records = await read_records(shard, [job_id])
    return snapshot_of(records[0]) if records else None


async def read_prompt(shard: Shard, job_id: str) -> tuple[int, ...]:
    """The prompt's token ids; none for an unknown job. Raises Corrupt."""
    return unpack_u32(await shard.link.call("HGET", shard.keys.job(job_id), "prompt") or b"")


async def read_edge(shard: Shard, job_id: str) -> str:
    """What the edge that took the job keeps with it; empty where it keeps nothing."""
    stored: bytes = await shard.link.call("HGET", shard.keys.job(job_id), "edge") or b""
    return stored.decode(errors="replace")


async def read_records(shard: Shard, job_ids: Sequence[str]) -> list[Record]:
    """Of the jobs that are known, in the order asked for."""
    if not job_ids:
        return []
    keys = shard.keys
    answers = await shard.run("look", [keys.queue, *map(keys.job, job_ids)], job_ids)
    pairs = zip(job_ids, answers, strict=True)
    known = [(job_id, f or _UNREADABLE) for job_id, f in pairs if f is not None]
    counts = [decode_count(f[1]) for _, f in known]
    # Read after the finishes: a finished output then has its last token counted.
    logs = [
        keys.log(job_id, index)
        for (job_id, _), count in zip(known, counts, strict=True)
        for index in range(count)
    ]
    sizes = iter(await shard.link.each([("STRLEN", log) for log in logs]) if logs else ())
    notes = await notes_of(shard, [f[6:9] for _, f in known])
    return [
        Record(job_id, f, list(itertools.islice(sizes, count)), note)
        for (job_id, f), count, note in zip(known, counts, notes, strict=True)
    ]


async def ended_ids(shard: Shard, job_ids: Sequence[str]) -> set[str]:
    """Those of the jobs that have ended."""
    found = await shard.link.records(list(map(shard.keys.job, job_ids)), "ended")
    return {job_id for job_id, [ended] in zip(job_ids, found, strict=True) if ended}


def snapshot_of(record: Record) -> JobSnapshot:
    """Raises Corrupt."""
    try:
        return _snapshot(record)
    except RECORD_ERRORS as error:
        raise Corrupt(f"a stored job cannot be read: {error}") from error


def _snapshot(record: Record) -> JobSnapshot:
    spec, _, arrival, deadline, ended, prompt_bytes, waits, *rest = record.fields
    _, _, queued, cached, *finishes = rest
    if not record.log_sizes:
        raise Corrupt("it has no outputs")
    return JobSnapshot(
        spec=decode_spec(spec, b"", arrival, deadline),
        num_prompt_tokens=prompt_bytes // 4,
        state="ended" if ended else "queued" if waits else "running",
        ended_s=float(ended or 0),
        outputs=tuple(
            OutputSnapshot(size // 4, decode_finish(finish) if finish else None)
            for size, finish in zip(record.log_sizes, finishes, strict=True)
        ),
        note=record.note,
        queued_s=float(queued) if queued is not None else None,
        num_cached=decode_known(cached),
    )
