"""What clients are told of a job."""

from __future__ import annotations

from scheduler_svc.frontend.stream import usage_of
from scheduler_svc.queue import JobSnapshot
from stepserve.protocol.inference import JobInfo, OutputInfo


def job_info(job: JobSnapshot) -> JobInfo:
    """Return it of a job as it stands."""
    outputs = tuple(
        OutputInfo(index, output.num_tokens, output.finish)
        for index, output in enumerate(job.outputs)
    )
    return JobInfo(
        job_id=job.spec.job_id,
        model=job.spec.model,
        state=job.state,
        arrival_s=job.spec.arrival_s,
        ended_s=job.ended_s,
        tenant=job.spec.tenant,
        priority=job.spec.priority,
        outputs=outputs,
        usage=usage_of(job, outputs, job.num_cached),
        note=job.note,
        deadline_s=job.spec.deadline_s,
        queued_s=job.queued_s,
        sampling=job.spec.sampling,
    )
