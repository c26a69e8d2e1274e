"""How a response looks: what was asked, how it stands, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scheduler_svc.http.ids import RESPONSE, public_id
from scheduler_svc.http.response_record import ResponseRecord
from stepserve.protocol.inference import JobInfo, Usage
from stepserve.protocol.job import Finish

# By the reason of the job's only output.
_STATUS = {"stop": "completed", "length": "incomplete", "cancelled": "cancelled"}


def status_of(finish: Finish) -> str:
    """Return how a response ended."""
    return _STATUS.get(finish.reason, "failed")


def response(
    record: ResponseRecord,
    job: JobInfo,
    finish: Finish | None = None,
    items: Sequence[dict[str, Any]] = (),
    usage: Usage | None = None,
) -> dict[str, Any]:
    """Return the whole object; ``items`` are its output, which it has once it has ended."""
    status = {"queued": "queued"}.get(job.state, "in_progress")
    error, details = None, None
    if finish is not None:
        status = status_of(finish)
        if status == "failed":
            error = {"code": "server_error", "message": finish.message}
        if status == "incomplete":
            details = {"reason": "max_output_tokens"}
    return {
        "id": public_id(RESPONSE, job.job_id),
        "object": "response",
        "created_at": int(job.arrival_s),
        "status": status,
        "completed_at": int(job.ended_s) if status == "completed" and job.ended_s else None,
        "error": error,
        "incomplete_details": details,
        "model": job.model,
        "output": list(items),
        "usage": _usage(usage) if usage is not None else None,
        "max_tool_calls": None,
        "service_tier": "default",
        "top_logprobs": 0,
        "truncation": "disabled",
        **_sampled(job),
        **record.shown,
    }


def _sampled(job: JobInfo) -> dict[str, Any]:
    """Return how tokens are chosen, without what single precision adds to a number."""
    chosen = job.sampling
    if chosen is None:
        return {}
    return {"temperature": round(chosen.temperature, 6), "top_p": round(chosen.top_p, 6)}


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens},
        "output_tokens": usage.completion_tokens,
        # Not counted here: null is what is known of it.
        "output_tokens_details": {"reasoning_tokens": None},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
