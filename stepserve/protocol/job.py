"""A job as values: what was asked, resolved, and what came of it so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from stepserve.protocol.sampling import Sampling
from stepserve.protocol.step import TokenLogprobs


@dataclass(frozen=True, slots=True)
class JobSpec:
    """Everything an exact rebuild of the job needs; written once, at submit.

    ``arrival_s`` and ``deadline_s`` are seconds since the epoch by Redis's clock;
    ``deadline_s`` 0 is none. Submit takes ``deadline_s`` relative to now and leaves
    ``arrival_s`` to Redis. ``is_open_ended``: the client named no ``max_tokens``, so the
    output may be as long as the worker has room for; only Submit needs to know. ``trace`` is
    whose child every span of the job is, empty where it is not traced. ``record`` is what else
    the queue has of a claimed job, as it has it: for the queue alone, should it lose the job.
    """

    job_id: str
    model: str
    prompt_token_ids: Sequence[int]
    sampling: Sampling
    tokenizer_fingerprint: str = ""
    priority: int = 0
    tenant: str = ""
    idempotency_key: str = ""
    deadline_s: float = 0.0
    arrival_s: float = 0.0
    cancel_on_disconnect: bool = False
    is_open_ended: bool = False
    trace: str = ""
    record: Mapping[str, bytes] = field(default_factory=dict, compare=False, repr=False)

    @property
    def num_tokens_needed(self) -> int:
        """Tokens that a worker must have room for to give each output what was asked."""
        return len(self.prompt_token_ids) + (1 if self.is_open_ended else self.sampling.max_tokens)


@dataclass(frozen=True, slots=True)
class Finish:
    """How one output ended.

    ``reason`` is "stop", "length", "cancelled", "deadline" or "error". ``text_bytes``
    is where a stop string cuts the text (UTF-8 bytes from its start), -1 for no cut.
    """

    reason: str
    message: str = ""
    text_bytes: int = -1


DEADLINE_PASSED = Finish("deadline", "the job's deadline has passed")


@dataclass(frozen=True, slots=True)
class OutputLog:
    """One output's tokens from ``offset`` on, and its end if it has one.

    ``logprobs`` is parallel to ``token_ids`` where they were asked for, else empty.
    ``num_restarts`` is how often the job was begun anew: tokens that were read before say
    nothing of these. ``num_cached``, told with the end: tokens of the job's prompt that were
    cached when it was begun; None where nobody noted it.
    """

    index: int
    token_ids: Sequence[int] = ()
    offset: int = 0
    logprobs: Sequence[TokenLogprobs] = ()
    finish: Finish | None = None
    num_restarts: int = 0
    num_cached: int | None = None


@dataclass(frozen=True, slots=True)
class ClaimedJob:
    """A job that a lane may run now, with the output that it has already.

    ``rank`` orders all jobs as the policy does, lowest first: a
    constant of the job, chosen when it was submitted. One with ``strikes`` is a suspect: it
    was there when a lane failed.
    """

    spec: JobSpec
    outputs: tuple[OutputLog, ...]
    rank: float = 0.0
    strikes: int = 0


class CommitRow(NamedTuple):
    """New tokens of one output, to be appended at ``offset`` of its log; maybe its end.

    A tuple, because there is one for each row of each step: it is made three times as fast.
    """

    job_id: str
    index: int  # type: ignore[assignment]  # Hides tuple.index, which nobody wants of a row.
    offset: int
    token_ids: Sequence[int]
    logprobs: Sequence[TokenLogprobs] = ()
    finish: Finish | None = None
