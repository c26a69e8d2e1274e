"""A step's rows and the reads of token logs, as arguments and answers of their scripts.

Numbers travel packed, not one argument each: a commit of 256 rows would otherwise spend
more time in the client's protocol than in Redis.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import chain
from typing import NamedTuple, TypeAlias

from scheduler_svc.queue.codec import (
    decode_finish,
    decode_known,
    decode_logprobs,
    encode_finish,
    encode_logprobs,
    unpack_u32,
)
from scheduler_svc.queue.keys import Keys
from scheduler_svc.queue.resp import Argument, Packed, packed
from stepserve.protocol.job import CommitRow, Finish, OutputLog
from stepserve.protocol.packed import pack


class RowKind(Enum):
    """What became of a committed row."""

    APPLIED = "applied"
    # Everything in it was there already.
    EXISTED = "existed"
    # The output has ended, or another lease holds the job: drop it, nothing was changed.
    ENDED = "ended"
    # There is no such job, or not any more; or it was lost, and nobody has claimed it again.
    UNKNOWN = "unknown"
    # The log is shorter than the row's offset: commit again from its end on.
    SHORT = "short"


@dataclass(frozen=True, slots=True)
class RowAnswer:
    """``length`` is that of the log, for SHORT only."""

    kind: RowKind
    length: int = 0


APPLIED = RowAnswer(RowKind.APPLIED)
_ANSWERS = {
    -1: APPLIED,
    -2: RowAnswer(RowKind.EXISTED),
    -3: RowAnswer(RowKind.ENDED),
    -4: RowAnswer(RowKind.UNKNOWN),
}
# The answer for as many rows as a step has at most, where nothing was wrong.
_ALL_APPLIED = struct.pack("<i", -1) * 4096

# Of outputs, by job id and index: how many tokens of the prompt needed no computing.
CachedTokens: TypeAlias = Mapping[tuple[str, int], int]
NOT_KNOWN: CachedTokens = {}

# Why an output ends of its own accord.
_OWN_REASONS = ("stop", "length")


class LogRequest(NamedTuple):
    """Which part of which output to read: from token ``offset`` to its present end.

    Where more than ``max_tokens`` are there, only so many are told of, and no end.
    ``num_restarts`` is what the one who asks knows of the job, and ``num_bytes`` what a prompt's
    log-probabilities may take that come with these tokens; they select nothing.
    """

    job_id: str
    index: int = 0  # type: ignore[assignment]  # Hides tuple.index, which nobody wants of it.
    offset: int = 0
    logprobs: bool = False
    max_tokens: int = 2**31
    num_restarts: int = 0
    num_bytes: int = 0


class RowEncoder:
    """Makes commit's KEYS and ARGV of a step's rows.

    Column by column: most of a step's work for Redis is done here, a row at a time it took
    three times as long.
    """

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    def encode(
        self, rows: Sequence[CommitRow], cached: CachedTokens = NOT_KNOWN
    ) -> tuple[Packed, list[Argument]]:
        """The row part of commit's KEYS and ARGV, of at least one row.

        Raises one of RECORD_ERRORS for a row that can't be written.
        """
        job_ids, indexes, offsets, token_ids, logprobs, finishes = zip(*rows, strict=True)
        names = list(map(self._keys.output, job_ids, indexes))
        heads = array("I", bytes(20 * len(rows)))
        heads[0::5] = array("I", indexes)
        heads[1::5] = array("I", offsets)
        heads[2::5] = array("I", map(len, token_ids))
        payload: list[Argument] = []
        num_names = 2 * len(rows)
        if any(logprobs) or finishes.count(None) < len(rows):
            for at, row in enumerate(rows):
                if row.logprobs:
                    names[at] += packed([self._keys.lp(row.job_id, row.index)])
                    num_names += 1
                heads[5 * at + 3] = len(row.logprobs)
                heads[5 * at + 4] = _ends(row.finish)
                payload += _extras(row)
        return Packed(num_names, b"".join(names)), [
            heads.tobytes(),
            pack(chain.from_iterable(token_ids)),
            _begun(rows, cached) if cached and 0 in offsets else b"",
            *payload,
        ]


def _begun(rows: Sequence[CommitRow], cached: CachedTokens) -> bytes:
    """Which rows are the first of their outputs, and what was cached of their prompts."""
    numbers = array("I")
    for at, row in enumerate(rows):
        num_cached = cached.get((row.job_id, row.index)) if row.offset == 0 else None
        if num_cached is not None:
            numbers.extend((at, num_cached))
    return numbers.tobytes()


def _extras(row: CommitRow) -> Iterator[Argument]:
    """What only some rows have."""
    if row.logprobs:
        if len(row.logprobs) != len(row.token_ids):
            raise ValueError("a row needs log-probabilities for each of its tokens or none")
        yield from map(encode_logprobs, row.logprobs)
    if row.finish is not None:
        yield encode_finish(row.finish)


def _ends(finish: Finish | None) -> int:
    """2 where the length of the output says something of those to come."""
    if finish is None:
        return 0
    return 2 if finish.reason in _OWN_REASONS else 1


def decode_answers(answer: bytes) -> list[RowAnswer]:
    num_rows = len(answer) // 4
    if answer == _ALL_APPLIED[: 4 * num_rows]:
        return [APPLIED] * num_rows
    numbers = struct.unpack(f"<{num_rows}i", answer)
    return [_ANSWERS.get(n) or RowAnswer(RowKind.SHORT, n) for n in numbers]


def encode_requests(keys: Keys, requests: Sequence[LogRequest]) -> tuple[Packed, bytes]:
    """read's KEYS, and its one argument."""
    job_ids, indexes, offsets, wanted, max_tokens, *_ = zip(*requests, strict=True)
    names = list(map(keys.output, job_ids, indexes))
    num_names = 2 * len(requests) + sum(wanted)
    if any(wanted):
        for at, request in enumerate(requests):
            if request.logprobs:
                names[at] += packed([keys.lp(request.job_id, request.index)])
    numbers = array("I", bytes(16 * len(requests)))
    for column, values in enumerate((indexes, offsets, max_tokens, wanted)):
        numbers[column::4] = array("I", values)
    return Packed(num_names, b"".join(names)), numbers.tobytes()


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
            decode_known(payload[at + num_logprobs + 1]) if ended else None,
        )
        token += num_tokens
        at += num_logprobs + 2 * ended
