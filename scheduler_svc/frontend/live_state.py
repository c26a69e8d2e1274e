"""How a model's service stands at a moment: its queue, its workers, its newest jobs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from scheduler_svc.queue import JobQueue, JobSnapshot, WaitingJob, WorkerRecord

# Of those that wait only the first are looked at, and fewer of them named.
MAX_WAITING, MAX_NAMED = 512, 40
MAX_RUNNING, MAX_ENDED = 64, 24


async def state_of(queue: JobQueue) -> dict[str, Any]:
    """Return it, as JSON has it. Raises Unavailable."""
    backlog = await queue.backlog()
    line = await queue.line(MAX_WAITING)
    running = await queue.jobs(state="running", limit=MAX_RUNNING)
    ended = await queue.jobs(state="ended", limit=MAX_ENDED)
    workers = await queue.workers()
    return {
        "now_s": backlog.now_s,
        "queue": {
            "num": backlog.num_queued,
            "tenants": _by_tenant(line, backlog.now_s),
            "first": [_waiting(job) for job in line[:MAX_NAMED]],
        },
        "claimed": backlog.num_claimed,
        "ended": backlog.num_ended,
        "suspects": backlog.num_suspects,
        "stranded": backlog.num_stranded,
        "workers": [_worker(worker) for worker in workers],
        "jobs": [job_told(job) for job in (*running, *ended)],
    }


def _by_tenant(line: Sequence[WaitingJob], now_s: float) -> list[dict[str, Any]]:
    counts: defaultdict[str, defaultdict[int, int]] = defaultdict(lambda: defaultdict(int))
    oldest_s: dict[str, float] = {}
    for job in line:
        counts[job.tenant][job.priority] += 1
        oldest_s[job.tenant] = min(oldest_s.get(job.tenant, job.arrival_s), job.arrival_s)
    return [
        {
            "tenant": tenant,
            "num": sum(by_priority.values()),
            "by_priority": sorted(by_priority.items(), reverse=True),
            "oldest_s": max(0.0, now_s - oldest_s[tenant]),
        }
        for tenant, by_priority in sorted(counts.items())
    ]


def _waiting(job: WaitingJob) -> dict[str, Any]:
    return {
        "job": job.job_id,
        "tenant": job.tenant,
        "priority": job.priority,
        "arrival_s": job.arrival_s,
    }


def _worker(worker: WorkerRecord) -> dict[str, Any]:
    return {
        "worker": worker.worker_id,
        "holder": worker.holder,
        "epoch": worker.epoch,
        "incarnation": worker.info.get("incarnation", ""),
        "step_us": worker.step_us,
        "blocks": worker.num_blocks,
        "used": worker.num_used_blocks,
        "block_size": worker.block_size,
        "places": int(worker.info.get("places", 0)),
        "max_context": int(worker.info.get("max_context", 0)),
    }


def job_told(job: JobSnapshot) -> dict[str, Any]:
    """Return a job as the page has it: its times, and how far each of its outputs is."""
    spec = job.spec
    return {
        "job": spec.job_id,
        "tenant": spec.tenant,
        "priority": spec.priority,
        "state": job.state,
        "arrival_s": spec.arrival_s,
        "queued_s": job.queued_s,
        "ended_s": job.ended_s,
        "prompt_tokens": job.num_prompt_tokens,
        "max_tokens": spec.sampling.max_tokens,
        "note": job.note,
        "outputs": [
            {"tokens": output.num_tokens, "reason": output.finish.reason if output.finish else ""}
            for output in job.outputs
        ],
    }
