"""A step's rows and the reads of token logs, as arguments and answers of their scripts.

Numbers travel packed, not one argument each: a commit of 256 rows would otherwise spend
more time in the client's protocol than in Redis.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from protos.job import CommitRow, Finish, OutputLog
from scheduler_svc.queue.codec import (
    decode_finish,
    decode_logprobs,
    encode_finish,
    encode_logprobs,
    pack_u32,
    unpack_u32,
)
from scheduler_svc.queue.keys import Keys
from scheduler_svc.queue.link import Argument


class RowKind(Enum):
    """What became of a committed row."""

    APPLIED = "applied"
    # Everything in it was there already.
    EXISTED = "existed"
    # The output has ended, or another lease holds the job: drop it, nothing was changed.
    ENDED = "ended"
    # The log is shorter than the row's offset: commit again from its end on.
    SHORT = "short"


@dataclass(frozen=True, slots=True)
class RowAnswer:
    """``length`` is that of the log, for SHORT only."""

    kind: RowKind
    length: int = 0


_ANSWERS = {
    -1: RowAnswer(RowKind.APPLIED),
    -2: RowAnswer(RowKind.EXISTED),
    -3: RowAnswer(RowKind.ENDED),
}


# Why an output ends of its own accord.
_OWN_REASONS = ("stop", "length")


@dataclass(frozen=True, slots=True)
class LogRequest:
    """Which part of which output to read: from token ``offset`` to its present end.

    Where more than ``max_tokens`` are there, only so many are told of, and no end.
    ``num_restarts`` is what the one who asks knows of the job; it selects nothing.
    """

    job_id: str
    index: int = 0
    offset: int = 0
    logprobs: bool = False
    max_tokens: int = 2**31
    num_restarts: int = 0


def encode_rows(keys: Keys, rows: Sequence[CommitRow]) -> tuple[list[str], list[Argument]]:
    """The row part of commit's KEYS and ARGV."""
    names: list[str] = []
    numbers: list[int] = []
    token_ids: list[int] = []
    payload: list[Argument] = []
    for row in rows:
        job_id, index, logprobs, finish = row.job_id, row.index, row.logprobs, row.finish
        names += (keys.job(job_id), keys.log(job_id, index))
        if logprobs:
            if len(logprobs) != len(row.token_ids):
                raise ValueError("a row needs log-probabilities for each of its tokens or none")
            names.append(keys.lp(job_id, index))
            payload += map(encode_logprobs, logprobs)
        if finish is not None:
            payload.append(encode_finish(finish))
        numbers += (index, row.offset, len(row.token_ids), len(logprobs), _ends(finish))
        token_ids += row.token_ids
    return names, [pack_u32(numbers), pack_u32(token_ids), *payload]


def _ends(finish: Finish | None) -> int:
    """2 where the length of the output says something of those to come."""
    if finish is None:
        return 0
    return 2 if finish.reason in _OWN_REASONS else 1


def decode_answers(answer: bytes) -> list[RowAnswer]:
    numbers = struct.unpack(f"<{len(answer) // 4}i", answer)
    return [_ANSWERS.get(n) or RowAnswer(RowKind.SHORT, n) for n in numbers]


def encode_requests(keys: Keys, requests: Sequence[LogRequest]) -> tuple[list[str], bytes]:
    """read's KEYS, and its one argument."""
    names: list[str] = []
    numbers: list[int] = []
    for request in requests:
        job_id, index = request.job_id, request.index
        names += (keys.job(job_id), keys.log(job_id, index))
        if request.logprobs:
            names.append(keys.lp(job_id, index))
        numbers += (index, request.offset, request.max_tokens, int(request.logprobs))
    return names, pack_u32(numbers)


def decode_outputs(
    requests: Sequence[LogRequest], answer: Sequence[bytes]
) -> Iterator[OutputLog | None]:
    """read's answer, in the order of its requests; None for an unknown job."""
    heads, packed, *payload = answer
    token_ids = unpack_u32(packed)
    token, at = 0, 0
    for request, head in zip(requests, struct.iter_unpack("<4i", heads), strict=True):
        num_tokens, num_logprobs, ended, num_restarts = head
        if num_tokens < 0:
            yield None
            continue
        yield OutputLog(
            request.index,
            token_ids[token : token + num_tokens],
            request.offset,
            tuple(map(decode_logprobs, payload[at : at + num_logprobs])) if num_logprobs else (),
            decode_finish(payload[at + num_logprobs]) if ended else None,
            num_restarts,
        )
        token += num_tokens
        at += num_logprobs + ended
