"""One forward iteration as values: what a lane commands and what a worker reports.

The frozen forms of ``worker.proto``'s messages; ``stepserve.protocol.step_wire`` translates.
Rows are parallel lists, not objects: a step of 256 rows is planned and read in
tens of microseconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from stepserve.protocol.prompt_logprobs import PromptLogprobs
from stepserve.protocol.sampling import Sampling

PROTOCOL_VERSION = 1


class FinishReason(IntEnum):
    """Why a worker ended a sequence; the values are worker.proto's."""

    STOP = 1
    LENGTH = 2
    ERROR = 3


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """The chosen token's log-probability, and the likeliest (token id, log-probability)s.

    ``prompt``: the prompt's, with the first token of an output where they were asked for.
    """

    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    prompt: PromptLogprobs | None = None


@dataclass(frozen=True, slots=True)
class Admission:
    """A sequence in full: ``token_ids`` is the prompt, then the output it has."""

    sequence_id: int
    job_id: str
    index: int
    token_ids: Sequence[int]
    num_prompt_tokens: int
    sampling: Sampling
    num_computed: int = 0
    block_ids: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class StepCommand:
    """Applied in this order: releases, admissions, rows."""

    epoch: int
    incarnation: str
    step: int
    committed_step: int = 0
    release_ids: Sequence[int] = ()
    admissions: Sequence[Admission] = ()
    row_sequence_ids: Sequence[int] = ()
    row_num_tokens: Sequence[int] = ()
    row_num_new_blocks: Sequence[int] = ()
    new_block_ids: Sequence[int] = ()
    # How long the lane lets the step run; 0: it does not say.
    max_duration_ms: int = 0


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one step did; it describes itself."""

    incarnation: str
    epoch: int
    step: int
    token_sequence_ids: Sequence[int] = ()
    token_offsets: Sequence[int] = ()
    token_ids: Sequence[int] = ()
    # By position in token_ids.
    logprobs: Mapping[int, TokenLogprobs] = field(default_factory=dict)
    finished: Sequence[tuple[int, FinishReason]] = ()
    # (sequence id, block ids) for each sequence that dropped its references.
    freed: Sequence[tuple[int, Sequence[int]]] = ()
    duration_us: int = 0
    # Token positions that went through the layers, and key positions that attention read in
    # each of them: padding included.
    num_positions: int = 0
    num_context: int = 0


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """What a worker is; see worker.proto."""

    incarnation: str
    model: str
    fingerprint: str
    dtype: str
    vocab_size: int
    max_context: int
    block_size: int
    num_blocks: int
    max_batch_size: int
    max_step_tokens: int
    max_kept_reports: int
    num_stages: int = 1
    launch_ahead: int = 0
    device: str = ""
    version: str = ""
    tensor_parallel: int = 1
    protocol_version: int = PROTOCOL_VERSION


@dataclass(frozen=True, slots=True)
class Hello:
    """Opens a lane's stream; ``reset`` makes the worker release everything first.

    ``wants_reports``: the reports that the worker keeps are to follow its reply.
    """

    epoch: int
    lane: str
    incarnation: str = ""
    reset: bool = False
    wants_reports: bool = False
    protocol_version: int = PROTOCOL_VERSION


@dataclass(frozen=True, slots=True)
class ResidentSequence:
    """A sequence that a worker holds, or has held, as its HelloReply tells."""

    sequence_id: int
    job_id: str
    index: int
    num_tokens: int
    num_computed: int
    block_ids: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class HelloReply:
    """A worker's answer to Hello; the next step is ``last_step + 1``.

    The reports of the last ``num_kept_reports`` steps follow; ``departed`` are sequences which
    these may name though they are not resident any more. Ids up to ``last_sequence_id`` were
    used.
    """

    info: WorkerInfo
    last_step: int
    sequences: Sequence[ResidentSequence] = ()
    num_kept_reports: int = 0
    departed: Sequence[ResidentSequence] = ()
    last_sequence_id: int = 0
