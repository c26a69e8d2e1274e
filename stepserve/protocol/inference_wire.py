"""The service on the wire: ``inference``'s values to inference.proto's messages and back.

The only door to inference.proto's messages; ``inference_rpc`` is the one to its calls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, overload

from stepserve.protocol.errors import InvalidRequest
from stepserve.protocol.inference import (
    ChatMessage,
    JobInfo,
    JobState,
    ModelInfo,
    OutputInfo,
    Request,
    StreamEvent,
    Usage,
)
from stepserve.protocol.job import Finish
from stepserve.protocol.sampling import SamplingParams
from stepserve.protocol.step import TokenLogprobs
from stepserve.v1 import inference_pb2 as pb
from stepserve.v1.inference_pb2 import (
    AttachRequest,
    CancelJobRequest,
    GetJobRequest,
    Job,
    ListJobsRequest,
    ListJobsResponse,
    ListModelsRequest,
    ListModelsResponse,
    SubmitRequest,
    SubmitResponse,
)

__all__ = [
    "MAX_REQUEST_BYTES",
    "RETRY_AFTER_KEY",
    "SERVICE_NAME",
    "AttachRequest",
    "CancelJobRequest",
    "GetJobRequest",
    "Job",
    "ListJobsRequest",
    "ListJobsResponse",
    "ListModelsRequest",
    "ListModelsResponse",
    "SubmitRequest",
    "SubmitResponse",
    "decode_event",
    "decode_job",
    "decode_models",
    "decode_state",
    "encode_event",
    "encode_job",
    "encode_models",
    "encode_request",
    "encode_state",
]

SERVICE_NAME = str(pb.DESCRIPTOR.services_by_name["Inference"].full_name)
# A megabyte of text is some 250,000 tokens, beyond any context that is served.
MAX_REQUEST_BYTES = 16 * 1024 * 1024
# The trailer of RESOURCE_EXHAUSTED.
RETRY_AFTER_KEY = "retry-after-ms"

_STATES: dict[JobState, pb.JobState] = {
    "queued": pb.JOB_STATE_QUEUED,
    "running": pb.JOB_STATE_RUNNING,
    "ended": pb.JOB_STATE_ENDED,
}
_STATE_NAMES: dict[int, JobState] = {number: name for name, number in _STATES.items()}


def encode_request(request: Request) -> SubmitRequest:
    """Raises InvalidRequest where a value does not fit its field."""
    wire = SubmitRequest()
    if request.prompt_token_ids is not None:
        wire.prompt_token_ids.SetInParent()
        _assign(wire.prompt_token_ids, "ids", request.prompt_token_ids, "prompt_token_ids")
    for position, message in enumerate(request.messages):
        entry = wire.messages.add()
        _assign(entry, "role", message.role, f"messages[{position}].role")
        _assign(entry, "content", message.content, f"messages[{position}].content")
    wire.sampling.SetInParent()
    for name in (entry.name for entry in fields(SamplingParams)):
        _assign(wire.sampling, name, getattr(request.sampling, name), f"sampling.{name}")
    for name in (entry.name for entry in fields(Request)):
        if name not in ("prompt_token_ids", "messages", "sampling"):
            _assign(wire, name, getattr(request, name), name)
    return wire


def decode_request(wire: SubmitRequest) -> Request:
    """The request as a client would have made it; absent optional fields are None.

    Its sequences and mappings are views of the message, which may be as large as a request can
    be: nothing is copied before somebody has looked at how much there is.
    """
    sampling = {
        entry.name: _optional(wire.sampling, entry.name) for entry in fields(SamplingParams)
    }
    has_ids = wire.HasField("prompt_token_ids")
    return Request(
        prompt=wire.prompt,
        prompt_token_ids=wire.prompt_token_ids.ids if has_ids else None,
        messages=_Messages(wire.messages),
        sampling=SamplingParams(**sampling),
        model=wire.model,
        priority=wire.priority,
        tenant=wire.tenant,
        idempotency_key=wire.idempotency_key,
        deadline_s=wire.deadline_s,
        cancel_on_disconnect=wire.cancel_on_disconnect,
    )


def _optional(wire: pb.SamplingParams, name: str) -> Any:
    field = wire.DESCRIPTOR.fields_by_name[name]
    if field.has_presence:
        return getattr(wire, name) if wire.HasField(name) else None
    return getattr(wire, name)


class _Messages(Sequence[ChatMessage]):
    """A conversation, each message made when it is asked for."""

    def __init__(self, messages: Sequence[pb.ChatMessage]) -> None:
        self._messages = messages

    def __len__(self) -> int:
        return len(self._messages)

    @overload
    def __getitem__(self, index: int) -> ChatMessage: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[ChatMessage]: ...
    def __getitem__(self, index: int | slice) -> ChatMessage | Sequence[ChatMessage]:
        if isinstance(index, slice):
            return _Messages(self._messages[index])
        message = self._messages[index]
        return ChatMessage(message.role, message.content)


def _assign(wire: Any, name: str, value: Any, path: str) -> None:
    try:
        if value is None:
            return
        if isinstance(value, Mapping):
            getattr(wire, name).update(value)
        elif isinstance(value, (str, bytes, int, float)):
            setattr(wire, name, value)
        else:
            getattr(wire, name).extend(value)
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise InvalidRequest(path, f"a {type(value).__name__} that does not fit") from error


def encode_event(event: StreamEvent) -> pb.StreamEvent:
    wire = pb.StreamEvent(
        job_id=event.job_id,
        index=event.index,
        offset=event.offset,
        token_ids=event.token_ids,
        text=event.text,
        logprobs=[_encode_logprobs(entry) for entry in event.logprobs],
    )
    if event.finish is not None:
        wire.finish_reason, wire.finish_message = event.finish.reason, event.finish.message
    if event.usage is not None:
        wire.usage.CopyFrom(_encode_usage(event.usage))
    return wire


def decode_event(wire: pb.StreamEvent) -> StreamEvent:
    return StreamEvent(
        job_id=wire.job_id,
        index=wire.index,
        offset=wire.offset,
        token_ids=tuple(wire.token_ids),
        text=wire.text,
        logprobs=tuple(_decode_logprobs(entry) for entry in wire.logprobs),
        finish=_decode_finish(wire),
        usage=_decode_usage(wire.usage) if wire.HasField("usage") else None,
    )


def _encode_logprobs(logprobs: TokenLogprobs) -> pb.TokenLogprobs:
    top = [pb.TopLogprob(token_id=token_id, logprob=value) for token_id, value in logprobs.top]
    return pb.TokenLogprobs(logprob=logprobs.logprob, top=top)


def _decode_logprobs(wire: pb.TokenLogprobs) -> TokenLogprobs:
    return TokenLogprobs(wire.logprob, tuple((top.token_id, top.logprob) for top in wire.top))


def _decode_finish(wire: pb.StreamEvent | pb.JobOutput) -> Finish | None:
    return Finish(wire.finish_reason, wire.finish_message) if wire.finish_reason else None


def _encode_usage(usage: Usage) -> pb.Usage:
    return pb.Usage(prompt_tokens=usage.prompt_tokens, completion_tokens=usage.completion_tokens)


def _decode_usage(wire: pb.Usage) -> Usage:
    return Usage(wire.prompt_tokens, wire.completion_tokens)


def encode_state(state: JobState | None) -> pb.JobState:
    """Return a state's number; of None the one that stands for all."""
    if state is None:
        return pb.JOB_STATE_UNSPECIFIED
    if state not in _STATES:
        raise InvalidRequest("state", f"must be one of {', '.join(_STATES)}")
    return _STATES[state]


def decode_state(state: int) -> JobState | None:
    """Return a state's name, None of JOB_STATE_UNSPECIFIED."""
    if state == pb.JOB_STATE_UNSPECIFIED:
        return None
    if state not in _STATE_NAMES:
        raise InvalidRequest("state", f"{state} is none")
    return _STATE_NAMES[state]


def encode_job(job: JobInfo) -> Job:
    wire = Job(
        job_id=job.job_id,
        model=job.model,
        state=encode_state(job.state),
        tenant=job.tenant,
        priority=job.priority,
        arrival_s=job.arrival_s,
        ended_s=job.ended_s,
        usage=_encode_usage(job.usage),
        note=job.note,
    )
    for output in job.outputs:
        finish = output.finish or Finish("")
        wire.outputs.add(
            index=output.index,
            num_tokens=output.num_tokens,
            finish_reason=finish.reason,
            finish_message=finish.message,
        )
    return wire


def decode_job(wire: Job) -> JobInfo:
    return JobInfo(
        job_id=wire.job_id,
        model=wire.model,
        state=decode_state(wire.state) or "queued",
        arrival_s=wire.arrival_s,
        ended_s=wire.ended_s,
        tenant=wire.tenant,
        priority=wire.priority,
        outputs=tuple(
            OutputInfo(output.index, output.num_tokens, _decode_finish(output))
            for output in wire.outputs
        ),
        usage=_decode_usage(wire.usage),
        note=wire.note,
    )


def encode_models(models: Sequence[ModelInfo]) -> ListModelsResponse:
    wire = ListModelsResponse()
    for model in models:
        wire.models.add(
            name=model.name,
            max_context=model.max_context,
            vocab_size=model.vocab_size,
            num_workers=model.num_workers,
            num_queued_jobs=model.num_queued_jobs,
        )
    return wire


def decode_models(wire: ListModelsResponse) -> tuple[ModelInfo, ...]:
    return tuple(
        ModelInfo(
            model.name,
            model.max_context,
            model.vocab_size,
            model.num_workers,
            model.num_queued_jobs,
        )
        for model in wire.models
    )
