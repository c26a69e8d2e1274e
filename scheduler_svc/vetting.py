"""Whether a lane can run a job at all, found out before its core has it."""

from __future__ import annotations

from protos.job import ClaimedJob
from protos.step_wire import encode_admission
from scheduler_svc.core.intake import sequences_of


def problem_of(job: ClaimedJob, max_context: int) -> str:
    """Return why the job can't be run by a worker of ``max_context``, "" where it can.

    Everything that is made of a job's own values is made here once: what would break a lane
    breaks nothing yet, and it is known whose fault it is.
    """
    try:
        sequences = sequences_of(job, max_context)
        for sequence in sequences:
            encode_admission(sequence.admission())
    except Exception as error:
        return f"it can't be sent to a worker: {type(error).__name__}: {error}"
    for sequence in sequences:
        if sequence.is_full and sequence.is_cut:
            has = f"it has {sequence.num_tokens} tokens"
            return f"{has}, which fill the worker's context of {max_context}"
    return ""
