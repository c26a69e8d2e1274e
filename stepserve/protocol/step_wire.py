"""The step protocol on the wire: ``step``'s values to worker.proto's messages and back.

The only door to worker.proto's generated code, but for ``inference_wire``, which packs a prompt's
log-probabilities as its message does. Decoding is strict about shape: arrays
whose lengths do not fit each other, or are no whole numbers of items, raise
``InvalidRequest`` naming the field. What the values mean is for the worker to judge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

from stepserve.protocol.errors import InvalidRequest
from stepserve.protocol.packed import check_length, pack, pack_floats, split, unpack, unpack_floats
from stepserve.protocol.prompt_logprobs import PromptLogprobs
from stepserve.protocol.sampling import Sampling
from stepserve.protocol.step import (
    Admission,
    FinishReason,
    Hello,
    HelloReply,
    ResidentSequence,
    StepCommand,
    StepReport,
    TokenLogprobs,
    WorkerInfo,
)
from stepserve.protocol.structured import StructuredOutputs
from stepserve.v1 import worker_pb2 as pb
from stepserve.v1.worker_pb2_grpc import (
    WorkerServicer,
    WorkerStub,
    add_WorkerServicer_to_server,
)

__all__ = [
    "SERVICE_NAME",
    "WorkerServicer",
    "WorkerStub",
    "add_WorkerServicer_to_server",
    "decode_command",
    "decode_hello",
    "decode_hello_reply",
    "decode_info",
    "decode_lane_message",
    "decode_report",
    "decode_worker_message",
    "describe_request",
    "encode_admission",
    "encode_command",
    "encode_hello",
    "encode_hello_reply",
    "encode_info",
    "encode_lane_message",
    "encode_report",
    "encode_worker_message",
    "pb",
]

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["Worker"].full_name

# Numbers that message and value name alike; the other fields are arrays, or -1 for none.
_SAMPLING_NUMBERS = tuple(
    field.name
    for field in pb.Sampling.DESCRIPTOR.fields
    if field.type not in (field.TYPE_BYTES, field.TYPE_MESSAGE)
    and field.name not in ("num_logprobs", "prompt_logprobs")
)


def _encode_sampling(sampling: Sampling) -> pb.Sampling:
    structured = sampling.structured_outputs
    return pb.Sampling(
        stop_token_ids=pack(sampling.stop_token_ids),
        logit_bias_ids=pack(token_id for token_id, _ in sampling.logit_bias),
        logit_bias_values=pack_floats(bias for _, bias in sampling.logit_bias),
        num_logprobs=sampling.logprobs,
        prompt_logprobs=sampling.prompt_logprobs if sampling.prompt_logprobs >= 0 else None,
        structured_outputs=None if structured is None else pb.Structure(**structured.values),
        **{name: getattr(sampling, name) for name in _SAMPLING_NUMBERS},
    )


def _decode_sampling(message: pb.Sampling) -> Sampling:
    bias_ids = unpack("logit_bias_ids", message.logit_bias_ids)
    bias_values = unpack_floats("logit_bias_values", message.logit_bias_values)
    check_length("logit_bias_values", bias_values, len(bias_ids))
    return Sampling(
        stop_token_ids=unpack("stop_token_ids", message.stop_token_ids),
        logit_bias=tuple(zip(bias_ids, bias_values, strict=True)),
        logprobs=message.num_logprobs,
        prompt_logprobs=message.prompt_logprobs if message.HasField("prompt_logprobs") else -1,
        structured_outputs=StructuredOutputs.of(message.structured_outputs)
        if message.HasField("structured_outputs")
        else None,
        **{name: getattr(message, name) for name in _SAMPLING_NUMBERS},
    )


def encode_admission(admission: Admission) -> pb.Admission:
    """Raise OverflowError, TypeError or ValueError for a value that its field cannot hold."""
    return pb.Admission(
        sequence_id=admission.sequence_id,
        job_id=admission.job_id,
        index=admission.index,
        token_ids=pack(admission.token_ids),
        num_prompt_tokens=admission.num_prompt_tokens,
        num_computed=admission.num_computed,
        block_ids=pack(admission.block_ids),
        sampling=_encode_sampling(admission.sampling),
    )


def _decode_admission(message: pb.Admission) -> Admission:
    return Admission(
        sequence_id=message.sequence_id,
        job_id=message.job_id,
        index=message.index,
        token_ids=unpack("token_ids", message.token_ids),
        num_prompt_tokens=message.num_prompt_tokens,
        sampling=_decode_sampling(message.sampling),
        num_computed=message.num_computed,
        block_ids=unpack("block_ids", message.block_ids),
    )


def encode_command(command: StepCommand) -> pb.StepCommand:
    """Raise OverflowError or ValueError for a value that its field cannot hold."""
    return pb.StepCommand(
        epoch=command.epoch,
        incarnation=command.incarnation,
        step=command.step,
        committed_step=command.committed_step,
        release_ids=pack(command.release_ids),
        admissions=[encode_admission(admission) for admission in command.admissions],
        row_sequence_ids=pack(command.row_sequence_ids),
        row_num_tokens=pack(command.row_num_tokens),
        row_num_new_blocks=pack(command.row_num_new_blocks),
        new_block_ids=pack(command.new_block_ids),
        max_duration_ms=command.max_duration_ms,
    )


def decode_command(message: pb.StepCommand) -> StepCommand:
    """Raise InvalidRequest where the row arrays do not fit each other."""
    row_ids = unpack("row_sequence_ids", message.row_sequence_ids)
    num_tokens = unpack("row_num_tokens", message.row_num_tokens)
    num_new_blocks = unpack("row_num_new_blocks", message.row_num_new_blocks)
    new_block_ids = unpack("new_block_ids", message.new_block_ids)
    check_length("row_num_tokens", num_tokens, len(row_ids))
    check_length("row_num_new_blocks", num_new_blocks, len(row_ids))
    check_length("new_block_ids", new_block_ids, sum(num_new_blocks))
    return StepCommand(
        epoch=message.epoch,
        incarnation=message.incarnation,
        step=message.step,
        committed_step=message.committed_step,
        release_ids=unpack("release_ids", message.release_ids),
        admissions=tuple(_decode_admission(admission) for admission in message.admissions),
        row_sequence_ids=row_ids,
        row_num_tokens=num_tokens,
        row_num_new_blocks=num_new_blocks,
        new_block_ids=new_block_ids,
        max_duration_ms=message.max_duration_ms,
    )


def _encode_logprobs(position: int, logprobs: TokenLogprobs) -> pb.RowLogprobs:
    return pb.RowLogprobs(
        position=position,
        logprob=logprobs.logprob,
        top_ids=pack(token_id for token_id, _ in logprobs.top),
        top_logprobs=pack_floats(logprob for _, logprob in logprobs.top),
        prompt=None if logprobs.prompt is None else _encode_prompt(logprobs.prompt),
    )


def _decode_logprobs(message: pb.RowLogprobs) -> TokenLogprobs:
    top_ids = unpack("top_ids", message.top_ids)
    top_logprobs = unpack_floats("top_logprobs", message.top_logprobs)
    check_length("top_logprobs", top_logprobs, len(top_ids))
    prompt = _decode_prompt(message.prompt) if message.HasField("prompt") else None
    return TokenLogprobs(message.logprob, tuple(zip(top_ids, top_logprobs, strict=True)), prompt)


def _encode_prompt(prompt: PromptLogprobs) -> pb.PackedLogprobs:
    return pb.PackedLogprobs(
        logprobs=prompt.logprobs, top_ids=prompt.top_ids, top_logprobs=prompt.top_logprobs
    )


def _decode_prompt(message: pb.PackedLogprobs) -> PromptLogprobs:
    prompt = PromptLogprobs(message.logprobs, message.top_ids, message.top_logprobs)
    prompt.check()
    return prompt


def encode_report(report: StepReport) -> pb.StepReport:
    """Raise OverflowError or ValueError for a value that its field cannot hold."""
    return pb.StepReport(
        incarnation=report.incarnation,
        epoch=report.epoch,
        step=report.step,
        token_sequence_ids=pack(report.token_sequence_ids),
        token_offsets=pack(report.token_offsets),
        token_ids=pack(report.token_ids),
        logprobs=[_encode_logprobs(*item) for item in report.logprobs.items()],
        finished_ids=pack(sequence_id for sequence_id, _ in report.finished),
        finish_reasons=bytes(reason for _, reason in report.finished),
        freed_ids=pack(sequence_id for sequence_id, _ in report.freed),
        freed_num_blocks=pack(len(block_ids) for _, block_ids in report.freed),
        freed_block_ids=pack(chain.from_iterable(block_ids for _, block_ids in report.freed)),
        duration_us=report.duration_us,
        num_positions=report.num_positions,
        num_context=report.num_context,
    )


def decode_report(message: pb.StepReport) -> StepReport:
    """Raise InvalidRequest where the arrays do not fit each other."""
    sequence_ids = unpack("token_sequence_ids", message.token_sequence_ids)
    offsets = unpack("token_offsets", message.token_offsets)
    token_ids = unpack("token_ids", message.token_ids)
    check_length("token_offsets", offsets, len(sequence_ids))
    check_length("token_ids", token_ids, len(sequence_ids))
    return StepReport(
        incarnation=message.incarnation,
        epoch=message.epoch,
        step=message.step,
        token_sequence_ids=sequence_ids,
        token_offsets=offsets,
        token_ids=token_ids,
        logprobs=_decode_report_logprobs(message, len(token_ids)),
        finished=_decode_finished(message),
        freed=_decode_freed(message),
        duration_us=message.duration_us,
        num_positions=message.num_positions,
        num_context=message.num_context,
    )


def _decode_report_logprobs(message: pb.StepReport, num_tokens: int) -> dict[int, TokenLogprobs]:
    logprobs = {row.position: _decode_logprobs(row) for row in message.logprobs}
    if len(logprobs) != len(message.logprobs) or max(logprobs, default=-1) >= num_tokens:
        raise InvalidRequest("logprobs", "a position is named twice or is no token's")
    return logprobs


def _decode_finished(message: pb.StepReport) -> tuple[tuple[int, FinishReason], ...]:
    finished_ids = unpack("finished_ids", message.finished_ids)
    check_length("finish_reasons", message.finish_reasons, len(finished_ids))
    try:
        reasons = [FinishReason(reason) for reason in message.finish_reasons]
    except ValueError as error:
        raise InvalidRequest("finish_reasons", str(error)) from error
    return tuple(zip(finished_ids, reasons, strict=True))


def _decode_freed(message: pb.StepReport) -> tuple[tuple[int, Sequence[int]], ...]:
    freed_ids = unpack("freed_ids", message.freed_ids)
    counts = unpack("freed_num_blocks", message.freed_num_blocks)
    check_length("freed_num_blocks", counts, len(freed_ids))
    block_ids = unpack("freed_block_ids", message.freed_block_ids)
    check_length("freed_block_ids", block_ids, sum(counts))
    return tuple(zip(freed_ids, split(block_ids, counts), strict=True))


# Values and messages name their fields alike.
_INFO_FIELDS = tuple(field.name for field in pb.WorkerInfo.DESCRIPTOR.fields)
_HELLO_FIELDS = tuple(field.name for field in pb.Hello.DESCRIPTOR.fields)


def describe_request() -> pb.DescribeRequest:
    """Ask a worker what it is."""
    return pb.DescribeRequest()


def encode_info(info: WorkerInfo) -> pb.WorkerInfo:
    return pb.WorkerInfo(**{name: getattr(info, name) for name in _INFO_FIELDS})


def decode_info(message: pb.WorkerInfo) -> WorkerInfo:
    found = WorkerInfo(**{name: getattr(message, name) for name in _INFO_FIELDS})
    # A worker that knows nothing of stages has one, and of ranks too.
    stages, ranks = max(1, found.num_stages), max(1, found.tensor_parallel)
    return replace(found, num_stages=stages, tensor_parallel=ranks)


def encode_hello(hello: Hello) -> pb.Hello:
    return pb.Hello(**{name: getattr(hello, name) for name in _HELLO_FIELDS})


def decode_hello(message: pb.Hello) -> Hello:
    return Hello(**{name: getattr(message, name) for name in _HELLO_FIELDS})


def _encode_resident(sequence: ResidentSequence) -> pb.ResidentSequence:
    return pb.ResidentSequence(
        sequence_id=sequence.sequence_id,
        job_id=sequence.job_id,
        index=sequence.index,
        num_tokens=sequence.num_tokens,
        num_computed=sequence.num_computed,
        block_ids=pack(sequence.block_ids),
    )


def _decode_resident(message: pb.ResidentSequence) -> ResidentSequence:
    return ResidentSequence(
        sequence_id=message.sequence_id,
        job_id=message.job_id,
        index=message.index,
        num_tokens=message.num_tokens,
        num_computed=message.num_computed,
        block_ids=unpack("block_ids", message.block_ids),
    )


def encode_hello_reply(reply: HelloReply) -> pb.HelloReply:
    return pb.HelloReply(
        info=encode_info(reply.info),
        last_step=reply.last_step,
        sequences=[_encode_resident(sequence) for sequence in reply.sequences],
        num_kept_reports=reply.num_kept_reports,
        departed=[_encode_resident(sequence) for sequence in reply.departed],
        last_sequence_id=reply.last_sequence_id,
    )


def decode_hello_reply(message: pb.HelloReply) -> HelloReply:
    """Raise InvalidRequest where a sequence's block ids are no whole number of items."""
    return HelloReply(
        info=decode_info(message.info),
        last_step=message.last_step,
        sequences=tuple(_decode_resident(sequence) for sequence in message.sequences),
        num_kept_reports=message.num_kept_reports,
        departed=tuple(_decode_resident(sequence) for sequence in message.departed),
        last_sequence_id=message.last_sequence_id,
    )


def encode_lane_message(value: Hello | StepCommand) -> pb.LaneMessage:
    if isinstance(value, Hello):
        return pb.LaneMessage(hello=encode_hello(value))
    return pb.LaneMessage(command=encode_command(value))


def decode_lane_message(message: pb.LaneMessage) -> Hello | StepCommand:
    """Raise InvalidRequest for a message of no known kind or of the wrong shape."""
    kind = message.WhichOneof("kind")
    if kind is None:
        raise InvalidRequest("kind", "a lane sends a hello or a command")
    return decode_hello(message.hello) if kind == "hello" else decode_command(message.command)


def encode_worker_message(value: HelloReply | StepReport) -> pb.WorkerMessage:
    if isinstance(value, HelloReply):
        return pb.WorkerMessage(hello=encode_hello_reply(value))
    return pb.WorkerMessage(report=encode_report(value))


def decode_worker_message(message: pb.WorkerMessage) -> HelloReply | StepReport:
    """Raise InvalidRequest for a message of no known kind or of the wrong shape."""
    kind = message.WhichOneof("kind")
    if kind is None:
        raise InvalidRequest("kind", "a worker sends a hello or a report")
    return decode_hello_reply(message.hello) if kind == "hello" else decode_report(message.report)
