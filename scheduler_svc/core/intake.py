"""From a claimed job to the sequences that are still to be generated."""

from __future__ import annotations

from scheduler_svc.core.sequence import Sequence
from stepserve.protocol.job import ClaimedJob, OutputLog, SamplingParams
from stepserve.protocol.step import Sampling


def sequences_of(job: ClaimedJob, max_context: int) -> list[Sequence]:
    """Return one sequence for each output that has not ended, with the tokens it has."""
    spec = job.spec
    logs = {log.index: log for log in job.outputs}
    sampling = _sampling(spec.sampling)
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


def _sampling(params: SamplingParams) -> Sampling:
    """What the worker needs of it; stop strings are the lane's affair."""
    return Sampling(
        max_tokens=params.max_tokens,
        temperature=params.temperature,
        top_p=params.top_p,
        top_k=params.top_k,
        min_p=params.min_p,
        seed=params.seed,
        stop_token_ids=params.stop_token_ids,
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        repetition_penalty=params.repetition_penalty,
        logit_bias=params.logit_bias,
        num_logprobs=params.logprobs,
    )
