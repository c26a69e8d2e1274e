"""What is told of jobs and workers, as JSON: of ``--json`` and of a batch's results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from stepserve.client.completion import Completion, Output
from stepserve.protocol.inference import JobInfo, OutputInfo, StreamEvent, Usage
from stepserve.protocol.job import Finish
from stepserve.protocol.sampling import Sampling
from stepserve.protocol.step import TokenLogprobs
from stepserve.protocol.worker_status import WorkerStatus


def completion_json(completion: Completion) -> dict[str, Any]:
    """Return a job's first output beside its id, and all of them where there are several."""
    outputs = [_output(output) for output in completion.outputs]
    result = {"job_id": completion.job_id, **outputs[0]}
    if len(outputs) > 1:
        result["outputs"] = outputs
    return {**result, "usage": _usage(completion.usage)}


def result_json(job: JobInfo, completion: Completion) -> dict[str, Any]:
    """Return all that is known of a job that has ended, with every output's text."""
    outputs = [_output(output) for output in completion.outputs]
    return {**job_json(job), "outputs": outputs, "text": completion.text}


def event_json(event: StreamEvent) -> dict[str, Any]:
    """Return some output; what an event does not have is not there."""
    fields: dict[str, Any] = {
        "job_id": event.job_id,
        "index": event.index,
        "offset": event.offset,
        "token_ids": list(event.token_ids),
        "text": event.text,
        **_logprobs(event.logprobs),
        **_finish(event.finish),
    }
    if event.usage is not None:
        fields["usage"] = _usage(event.usage)
    return fields


def job_json(job: JobInfo) -> dict[str, Any]:
    """Return how a job stands; times are seconds since the epoch, ``ended_s`` 0 until it ended."""
    return {
        "job_id": job.job_id,
        "model": job.model,
        "state": job.state,
        "tenant": job.tenant,
        "priority": job.priority,
        "arrival_s": job.arrival_s,
        "ended_s": job.ended_s,
        "outputs": [_output_info(output) for output in job.outputs],
        "usage": _usage(job.usage),
        "note": job.note,
        "deadline_s": job.deadline_s,
        "queued_s": job.queued_s,
        "sampling": None if job.sampling is None else _sampling(job.sampling),
    }


def worker_json(worker: WorkerStatus) -> dict[str, Any]:
    """Return all that is known of a worker, under the names of ``WorkerStatus``."""
    return asdict(worker)


def _sampling(sampling: Sampling) -> dict[str, Any]:
    bias = {str(token_id): value for token_id, value in sampling.logit_bias}
    asked = ("logprobs", "prompt_logprobs")
    numbers = {name: getattr(sampling, name) for name in asked}
    logprobs = {name: None if number < 0 else number for name, number in numbers.items()}
    return {**asdict(sampling), "logit_bias": bias, **logprobs}


def _output(output: Output) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "index": output.index,
        "token_ids": list(output.token_ids),
        "text": output.text,
        "finish_reason": output.finish_reason,
    }
    if output.finish_message:
        fields["finish_message"] = output.finish_message
    return {**fields, **_logprobs(output.logprobs)}


def _output_info(output: OutputInfo) -> dict[str, Any]:
    return {"index": output.index, "num_tokens": output.num_tokens, **_finish(output.finish)}


def _finish(finish: Finish | None) -> dict[str, str]:
    if finish is None:
        return {}
    message = {"finish_message": finish.message} if finish.message else {}
    return {"finish_reason": finish.reason, **message}


def _usage(usage: Usage) -> dict[str, int]:
    cached = {} if usage.cached_tokens is None else {"cached_tokens": usage.cached_tokens}
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        **cached,
    }


def _logprobs(logprobs: Sequence[TokenLogprobs]) -> dict[str, Any]:
    """Of the output's tokens; and of the prompt's, of which the first has none."""
    if not logprobs:
        return {}
    fields: dict[str, Any] = {"logprobs": [_place(entry.logprob, entry.top) for entry in logprobs]}
    if (prompt := logprobs[0].prompt) is not None:
        fields["prompt_logprobs"] = [None, *(_place(entry.logprob, entry.top) for entry in prompt)]
    return fields


def _place(logprob: float, top: Sequence[tuple[int, float]]) -> dict[str, Any]:
    likeliest = [{"token_id": token_id, "logprob": value} for token_id, value in top]
    return {"logprob": logprob, "top": likeliest}
