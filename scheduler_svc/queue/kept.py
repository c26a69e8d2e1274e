"""What a job's record has beside what was asked: who claims it can store it again as it was."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

from scheduler_svc.queue.quota import BOUND_NOT_KNOWN, Quota
from scheduler_svc.queue.resp import Argument
from stepserve.protocol.job import JobSpec

# Of the script "submit": the fields that it takes as they were.
_AS_THEY_WERE = (
    "turn",
    "restarts",
    "need",
    "started",
    "strikes",
    "problem",
    "losses",
    "lost_at",
    "cached",
)
_QUOTA_HEAD_BYTES = 16
_EDGE_BYTES = "edge_bytes"


def num_missing(record: Mapping[str, bytes]) -> int:
    """Return how many bytes its edge keeps of it that were too many to come with its claim."""
    return int(record.get(_EDGE_BYTES, 0))


def with_cached(record: Mapping[str, bytes], num_tokens: int) -> dict[str, bytes]:
    """Return a record with how many tokens of the prompt were cached; what it has of that stays."""
    return {"cached": b"%d" % num_tokens, **record}


def with_edge(record: Mapping[str, bytes], edge: str) -> dict[str, bytes]:
    """Return a record with what its edge keeps, which was read by itself."""
    rest = {name: value for name, value in record.items() if name != _EDGE_BYTES}
    return {**rest, "edge": edge.encode()}


def submitted_with(record: Mapping[str, bytes]) -> tuple[str, str, Quota]:
    """Return the digest of the request, what its edge keeps, and what it counts against."""
    key_id, bounds = "", (0, 0, 0)
    if quota := record.get("quota"):
        key_id = quota[_QUOTA_HEAD_BYTES:].decode()
        bounds = _bounds(quota, record.get("bounds"))
    request, edge = record.get("request", b""), record.get("edge", b"")
    return request.decode(), edge.decode(), Quota(key_id, float(record.get("weight", 0)), *bounds)


def _bounds(quota: bytes, bounds: bytes | None) -> tuple[int, int, int]:
    """Of requests and tokens a minute, and of jobs. Versions before kept that of tokens alone."""
    if bounds is None:
        _, most_tokens = struct.unpack_from("<dd", quota)
        return BOUND_NOT_KNOWN, int(most_tokens), BOUND_NOT_KNOWN
    requests, tokens, jobs = map(int, bounds.split())
    return requests, tokens, jobs


def as_it_was(spec: JobSpec, *, has_output: bool) -> Iterator[Argument]:
    """Yield names and values of what its record had, for the script "submit".

    Where it ``has_output``, that is of one model: no other goes on with it.
    """
    yield from ("arrival", f"{spec.arrival_s:.6f}")
    for name in (*_AS_THEY_WERE, *(("fingerprint",) if has_output else ())):
        if name in spec.record:
            yield from (name, spec.record[name])
