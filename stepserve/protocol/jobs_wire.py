"""Jobs, models and workers on the wire: what is told of them. ``inference_wire`` gives these on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from stepserve.protocol.errors import InvalidRequest
from stepserve.protocol.inference import (
    JobInfo,
    JobPage,
    JobState,
    ModelInfo,
    OutputInfo,
    Usage,
)
from stepserve.protocol.job import Finish
from stepserve.protocol.sampling import DEFAULTS, Sampling
from stepserve.protocol.structured import StructuredOutputs
from stepserve.protocol.worker_status import WorkerStatus
from stepserve.v1 import inference_pb2 as pb
from stepserve.v1.inference_pb2 import (
    Job,
    ListJobsResponse,
    ListModelsResponse,
    ListWorkersResponse,
)

_STATES: dict[JobState, pb.JobState] = {
    "queued": pb.JOB_STATE_QUEUED,
    "running": pb.JOB_STATE_RUNNING,
    "ended": pb.JOB_STATE_ENDED,
}
_STATE_NAMES: dict[int, JobState] = {number: name for name, number in _STATES.items()}
# Of a time in seconds; a double has no more to tell.
_US = 1e6
# Numbers of likeliest tokens, which are absent where none were asked for.
_LOGPROBS = ("logprobs", "prompt_logprobs")
# Of a worker, what the wire has as a message; the rest are numbers and texts of the same names.
_WORKER_TIMES = {"driven_since_s": "driven_since", "seen_s": "last_seen"}
_WORKER_DURATIONS = {"step_p50_s": "step_p50", "step_p99_s": "step_p99"}
_WORKER_PLAIN = tuple(
    each.name
    for each in fields(WorkerStatus)
    if each.name not in (_WORKER_TIMES | _WORKER_DURATIONS)
)


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


def encode_jobs(page: JobPage) -> ListJobsResponse:
    return ListJobsResponse(jobs=map(encode_job, page.jobs), next_page_token=page.next_page_token)


def decode_jobs(wire: ListJobsResponse) -> JobPage:
    return JobPage(tuple(map(decode_job, wire.jobs)), wire.next_page_token)


def encode_job(job: JobInfo) -> Job:
    wire = Job(
        job_id=job.job_id,
        model=job.model,
        state=encode_state(job.state),
        tenant=job.tenant,
        priority=job.priority,
        arrival_s=job.arrival_s,
        ended_s=job.ended_s,
        usage=encode_usage(job.usage),
        note=job.note,
        arrival_time=_timestamp(job.arrival_s),
        end_time=_timestamp(job.ended_s),
        deadline_time=_timestamp(job.deadline_s),
        outputs=map(_encode_output, job.outputs),
    )
    if job.queued_s is not None:
        wire.queue_duration.FromMicroseconds(round(job.queued_s * _US))
    if job.sampling is not None:
        wire.sampling.CopyFrom(_encode_sampling(job.sampling))
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
            OutputInfo(output.index, output.num_tokens, decode_finish(output))
            for output in wire.outputs
        ),
        usage=decode_usage(wire.usage),
        note=wire.note,
        deadline_s=wire.deadline_time.ToMicroseconds() / _US,
        queued_s=_seconds(wire.queue_duration) if wire.HasField("queue_duration") else None,
        sampling=_decode_sampling(wire.sampling) if wire.HasField("sampling") else None,
    )


def _encode_output(output: OutputInfo) -> pb.JobOutput:
    finish = output.finish or Finish("")
    return pb.JobOutput(
        index=output.index,
        num_tokens=output.num_tokens,
        finish_reason=finish.reason,
        finish_message=finish.message,
    )


def _timestamp(time_s: float) -> Timestamp | None:
    """None where there is no such time."""
    if not time_s:
        return None
    stamp = Timestamp()
    stamp.FromMicroseconds(round(time_s * _US))
    return stamp


def _seconds(duration: Duration) -> float:
    return duration.ToMicroseconds() / _US


def _encode_sampling(sampling: Sampling) -> pb.SamplingParams:
    values: dict[str, Any] = {each.name: getattr(sampling, each.name) for each in fields(Sampling)}
    values["logit_bias"] = dict(sampling.logit_bias)
    structured = sampling.structured_outputs
    values["structured_outputs"] = structured and structured.values
    for name in _LOGPROBS:
        if values[name] == DEFAULTS[name]:
            del values[name]  # none were asked for
    return pb.SamplingParams(**values)


def _decode_sampling(wire: pb.SamplingParams) -> Sampling:
    values: dict[str, Any] = {
        each.name: getattr(wire, each.name)
        for each in fields(Sampling)
        if each.name not in _LOGPROBS or wire.HasField(each.name)
    }
    return Sampling(
        **{
            **values,
            "stop": tuple(wire.stop),
            "stop_token_ids": tuple(wire.stop_token_ids),
            "logit_bias": tuple(sorted(wire.logit_bias.items())),
            "structured_outputs": StructuredOutputs.of(wire.structured_outputs)
            if wire.HasField("structured_outputs")
            else None,
        }
    )


def decode_finish(wire: pb.StreamEvent | pb.JobOutput) -> Finish | None:
    return Finish(wire.finish_reason, wire.finish_message) if wire.finish_reason else None


def encode_usage(usage: Usage) -> pb.Usage:
    return pb.Usage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        cached_tokens=usage.cached_tokens,
    )


def decode_usage(wire: pb.Usage) -> Usage:
    cached = wire.cached_tokens if wire.HasField("cached_tokens") else None
    return Usage(wire.prompt_tokens, wire.completion_tokens, cached)


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


def encode_workers(workers: Sequence[WorkerStatus]) -> ListWorkersResponse:
    return ListWorkersResponse(workers=map(_encode_worker, workers))


def decode_workers(wire: ListWorkersResponse) -> tuple[WorkerStatus, ...]:
    return tuple(map(_decode_worker, wire.workers))


def _encode_worker(worker: WorkerStatus) -> pb.WorkerStatus:
    values: dict[str, Any] = {name: getattr(worker, name) for name in _WORKER_PLAIN}
    for of, name in _WORKER_TIMES.items():
        values[name] = _timestamp(getattr(worker, of))
    wire = pb.WorkerStatus(**values)
    for of, name in _WORKER_DURATIONS.items():
        if (duration_s := getattr(worker, of)) is not None:
            getattr(wire, name).FromMicroseconds(round(duration_s * _US))
    return wire


def _decode_worker(wire: pb.WorkerStatus) -> WorkerStatus:
    values: dict[str, Any] = {name: getattr(wire, name) for name in _WORKER_PLAIN}
    for of, name in _WORKER_TIMES.items():
        values[of] = getattr(wire, name).ToMicroseconds() / _US
    for of, name in _WORKER_DURATIONS.items():
        values[of] = _seconds(getattr(wire, name)) if wire.HasField(name) else None
    return WorkerStatus(**values)
