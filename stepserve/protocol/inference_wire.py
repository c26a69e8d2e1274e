"""The service on the wire: ``inference``'s values to inference.proto's messages and back.

With ``jobs_wire``, whose names it gives on, the only door to inference.proto's messages;
``inference_rpc`` is the one to its calls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, overload

from google.protobuf import json_format

from stepserve.protocol.errors import InvalidRequest
from stepserve.protocol.inference import ChatMessage, Request, StreamEvent
from stepserve.protocol.jobs_wire import (
    decode_finish,
    decode_job,
    decode_jobs,
    decode_models,
    decode_state,
    decode_usage,
    decode_workers,
    encode_job,
    encode_jobs,
    encode_models,
    encode_state,
    encode_usage,
    encode_workers,
)
from stepserve.protocol.prompt_logprobs import PromptLogprobs
from stepserve.protocol.sampling import SamplingParams
from stepserve.protocol.step import TokenLogprobs
from stepserve.protocol.structured import StructuredOutputs
from stepserve.v1 import inference_pb2 as pb
from stepserve.v1.inference_pb2 import (
    AttachRequest,
    CancelJobRequest,
    DeleteJobRequest,
    DeleteJobResponse,
    GetJobRequest,
    Job,
    ListJobsRequest,
    ListJobsResponse,
    ListModelsRequest,
    ListModelsResponse,
    ListWorkersRequest,
    ListWorkersResponse,
    SubmitRequest,
    SubmitResponse,
)
from stepserve.v1.worker_pb2 import PackedLogprobs

__all__ = [
    "MAX_REQUEST_BYTES",
    "RETRY_AFTER_KEY",
    "SERVICE_NAME",
    "AttachRequest",
    "CancelJobRequest",
    "DeleteJobRequest",
    "DeleteJobResponse",
    "GetJobRequest",
    "Job",
    "ListJobsRequest",
    "ListJobsResponse",
    "ListModelsRequest",
    "ListModelsResponse",
    "ListWorkersRequest",
    "ListWorkersResponse",
    "SubmitRequest",
    "SubmitResponse",
    "decode_event",
    "decode_job",
    "decode_jobs",
    "decode_models",
    "decode_state",
    "decode_workers",
    "encode_event",
    "encode_job",
    "encode_jobs",
    "encode_models",
    "encode_request",
    "encode_state",
    "encode_workers",
]

SERVICE_NAME = str(pb.DESCRIPTOR.services_by_name["Inference"].full_name)
# A megabyte of text is some 250,000 tokens, beyond any context that is served.
MAX_REQUEST_BYTES = 16 * 1024 * 1024
MAX_TEMPLATE_KWARGS_BYTES = 64 * 1024
# A trailer of what may be tried again.
RETRY_AFTER_KEY = "retry-after-ms"

_KWARGS = "chat_template_kwargs"


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
    if request.chat_template_kwargs:
        _assign(wire, _KWARGS, request.chat_template_kwargs, _KWARGS)
    for name in (entry.name for entry in fields(Request)):
        if name not in ("prompt_token_ids", "messages", "sampling", _KWARGS):
            _assign(wire, name, getattr(request, name), name)
    return wire


def decode_request(wire: SubmitRequest) -> Request:
    """The request as a client would have made it; absent optional fields are None.

    Its sequences and mappings are views of the message, which may be as large as a request can
    be: nothing is copied before somebody has looked at how much there is. Raises InvalidRequest
    for template values that are too many, or no JSON.
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
        chat_template_kwargs=_decode_kwargs(wire),
    )


def _decode_kwargs(wire: SubmitRequest) -> dict[str, Any]:
    if not wire.HasField(_KWARGS):
        return {}
    if wire.chat_template_kwargs.ByteSize() > MAX_TEMPLATE_KWARGS_BYTES:
        raise InvalidRequest(_KWARGS, f"at most {MAX_TEMPLATE_KWARGS_BYTES} bytes are possible")
    try:
        values: dict[str, Any] = json_format.MessageToDict(wire.chat_template_kwargs)
    except (ValueError, json_format.Error) as error:
        raise InvalidRequest(_KWARGS, "has a number that is not finite") from error
    return {name: _whole(value) for name, value in values.items()}


def _whole(value: Any) -> Any:
    """Make an integer of a number that is one: a Struct has no others than doubles."""
    if isinstance(value, dict):
        return {name: _whole(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_whole(entry) for entry in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _optional(wire: pb.SamplingParams, name: str) -> Any:
    field = wire.DESCRIPTOR.fields_by_name[name]
    if field.has_presence and not wire.HasField(name):
        return None
    value = getattr(wire, name)
    return StructuredOutputs.view(value) if name == "structured_outputs" else value


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
        if is_dataclass(value):
            inner = getattr(wire, name)
            inner.SetInParent()
            for each in fields(value):
                _assign(inner, each.name, getattr(value, each.name), f"{path}.{each.name}")
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
        wire.usage.CopyFrom(encode_usage(event.usage))
    if event.existed:
        wire.existed = True
    return wire


def decode_event(wire: pb.StreamEvent) -> StreamEvent:
    return StreamEvent(
        job_id=wire.job_id,
        index=wire.index,
        offset=wire.offset,
        token_ids=tuple(wire.token_ids),
        text=wire.text,
        logprobs=tuple(_decode_logprobs(entry) for entry in wire.logprobs),
        finish=decode_finish(wire),
        usage=decode_usage(wire.usage) if wire.HasField("usage") else None,
        existed=wire.existed,
    )


def _encode_logprobs(logprobs: TokenLogprobs) -> pb.TokenLogprobs:
    top = [pb.TopLogprob(token_id=token_id, logprob=value) for token_id, value in logprobs.top]
    prompt = None if logprobs.prompt is None else _encode_prompt(logprobs.prompt)
    return pb.TokenLogprobs(logprob=logprobs.logprob, top=top, prompt=prompt)


def _decode_logprobs(wire: pb.TokenLogprobs) -> TokenLogprobs:
    top = tuple((top.token_id, top.logprob) for top in wire.top)
    return TokenLogprobs(
        wire.logprob, top, _decode_prompt(wire.prompt) if wire.HasField("prompt") else None
    )


def _encode_prompt(prompt: PromptLogprobs) -> pb.PromptLogprobs:
    # Thousands of numbers, of which none is looked at: on the wire they are the worker's bytes.
    packed = PackedLogprobs(
        logprobs=prompt.logprobs, top_ids=prompt.top_ids, top_logprobs=prompt.top_logprobs
    )
    return pb.PromptLogprobs.FromString(packed.SerializeToString())


def _decode_prompt(wire: pb.PromptLogprobs) -> PromptLogprobs:
    packed = PackedLogprobs.FromString(wire.SerializeToString())
    prompt = PromptLogprobs(packed.logprobs, packed.top_ids, packed.top_logprobs)
    prompt.check()
    return prompt
