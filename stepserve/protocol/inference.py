"""What clients ask and what they are told, as values.

The frozen forms of ``inference.proto``'s messages; ``inference_wire`` translates.
A request is as it was asked, defaults and all still open; ``job.JobSpec`` is what
becomes of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from stepserve.protocol.job import Finish
from stepserve.protocol.limits import S32, U32, MaxItems
from stepserve.protocol.sampling import Sampling, SamplingParams
from stepserve.protocol.step import TokenLogprobs

MAX_MESSAGES = 4096

JobState = Literal["queued", "running", "ended"]


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Request:
    """What to generate: one of ``prompt``, ``prompt_token_ids`` and ``messages``."""

    prompt: str = ""
    prompt_token_ids: Sequence[U32] | None = None
    messages: Annotated[Sequence[ChatMessage], MaxItems(MAX_MESSAGES)] = ()
    sampling: SamplingParams = field(default_factory=SamplingParams)
    model: str = ""
    priority: S32 = 0
    tenant: str = ""
    idempotency_key: str = ""
    deadline_s: float = 0.0
    cancel_on_disconnect: bool = False
    # JSON's values, of names that the chat template may use.
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of the prompt, and of all outputs together.

    ``cached_tokens``: those of the prompt that needed no computing, since an earlier job had left
    them in the worker's cache. None where that is not known: there is no token yet, or whoever
    began the job was gone before its first token was written.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """Some output of one of a job's sequences, from ``offset`` on.

    ``logprobs`` is parallel to ``token_ids`` where they were asked for. ``finish`` is set
    in the last event of its ``index``, ``usage`` in the last event of the stream. Of a
    finish, clients get the reason and the message; the text is cut already.
    ``existed``, in the first event of Generate: an idempotency key matched a job.
    ``text_offsets``, where log-probabilities were asked for, tells within the service at which
    character of the output's text each token begins to add to it.
    """

    job_id: str
    index: int = 0
    offset: int = 0
    token_ids: Sequence[int] = ()
    text: str = ""
    logprobs: Sequence[TokenLogprobs] = ()
    finish: Finish | None = None
    usage: Usage | None = None
    existed: bool = False
    text_offsets: Sequence[int] = ()

    @property
    def finish_reason(self) -> str:
        """Why this output ended; empty while it goes on."""
        return self.finish.reason if self.finish is not None else ""


@dataclass(frozen=True, slots=True)
class OutputInfo:
    """How far one of a job's outputs is."""

    index: int
    num_tokens: int
    finish: Finish | None = None


@dataclass(frozen=True, slots=True)
class JobInfo:
    """A job as it stands.

    Times are seconds since the epoch by Redis's clock; ``ended_s`` is 0 until it ended,
    ``deadline_s`` where there is none. ``note`` says what keeps a queued job waiting, where
    that is not its turn alone. ``queued_s``: how long it waited until a lane first took it, or
    has so far; None where an earlier version did not note it. ``sampling`` has every default
    and the seed resolved.
    """

    job_id: str
    model: str
    state: JobState
    arrival_s: float
    ended_s: float = 0.0
    tenant: str = ""
    priority: int = 0
    outputs: tuple[OutputInfo, ...] = ()
    usage: Usage = Usage(0, 0)
    note: str = ""
    deadline_s: float = 0.0
    queued_s: float | None = None
    sampling: Sampling | None = None


@dataclass(frozen=True, slots=True)
class JobPage:
    """Some of a list of jobs; ``next_page_token`` is empty where there are no more."""

    jobs: tuple[JobInfo, ...]
    next_page_token: str = ""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A served model; ``max_context`` is prompt and output tokens together."""

    name: str
    max_context: int
    vocab_size: int
    num_workers: int = 0
    num_queued_jobs: int = 0
