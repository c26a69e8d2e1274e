"""Whether a lane can run a job at all, found out before its core has it."""

from __future__ import annotations

from scheduler_svc.core.intake import sequences_of
from stepserve.protocol.job import ClaimedJob
from stepserve.protocol.step_wire import encode_admission


def problem_of(job: ClaimedJob, max_context: int) -> str:
    """Return why the job can't be run by any worker, "" where it can.

    Everything that is made of a job's own values is made here once: what would break a lane
    breaks nothing yet, and it is known whose fault it is.
    """
    try:
        for sequence in sequences_of(job, max_context):
            encode_admission(sequence.admission())
    except Exception as error:
        return f"it can't be sent to a worker: {type(error).__name__}: {error}"
    return ""


def outgrown_need(job: ClaimedJob, max_context: int) -> int:
    """Return how many tokens a worker must have room for where ``max_context`` leaves none.

    0 where there is room. What was asked for is known before a claim; a job that may become
    as long as it can, has outgrown what a smaller worker can hold by what it has become.
    """
    sequences = sequences_of(job, max_context)
    full = [each.num_tokens for each in sequences if each.is_full and each.is_cut]
    return max(full) + 1 if full else 0
