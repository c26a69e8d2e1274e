"""From a claimed job to the sequences that are still to be generated."""

from __future__ import annotations

from scheduler_svc.core.sequence import Sequence
from stepserve.protocol.job import ClaimedJob, OutputLog


def sequences_of(job: ClaimedJob, max_context: int) -> list[Sequence]:
    """Return one sequence for each output that has not ended, with the tokens it has."""
    spec = job.spec
    logs = {log.index: log for log in job.outputs}
    sampling = spec.sampling.for_worker()
    max_length = min(len(spec.prompt_token_ids) + sampling.max_tokens, max_context)
    return [
        Sequence(
            spec=spec,
            index=log.index,
            rank=job.rank,
            sampling=sampling,
            token_ids=[*spec.prompt_token_ids, *log.token_ids],
            max_length=max_length,
        )
        for index in range(spec.sampling.n)
        if (log := logs.get(index, OutputLog(index))).finish is None
    ]
