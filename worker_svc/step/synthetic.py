"""Steps of made-up sequences: to warm a runner up, and to see how much memory a step can take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from kvstore.blocks import num_blocks_for
from stepserve.protocol.sampling import MAX_LOGPROBS, Sampling
from stepserve.protocol.step import Admission, StepCommand
from worker_svc.core.limits import Limits
from worker_svc.step.layout import Layout

# A context that attention's Triton kernel divides, where the longest one is not too long for that.
MIN_LONG_CONTEXT = 512


def warm_up_steps(limits: Limits) -> Iterator[StepCommand]:
    """Steps of every kind: the runner is to be reset between them.

    A chunk of a prompt with a cut draw, a decode, and one whose context is long enough to be
    attended to in parts, with a draw from the whole vocabulary. A mask forbids nothing in the first
    two.
    """
    longest = limits.max_context - 1
    chunk = min(3, limits.max_step_tokens, longest)
    long = min(longest, max(MIN_LONG_CONTEXT, limits.max_context // 16))
    whole = Sampling(max_tokens=1)
    cut = replace(whole, top_p=0.5, min_p=0.1, logprobs=1, min_tokens=1)
    for row, sampling in (((chunk, chunk), cut), ((1, chunk), cut), ((1, long), whole)):
        yield _step([row], sampling, limits)


def largest_step(limits: Limits, layout: Layout) -> StepCommand:
    """The step that takes the most memory, each row through every sampling stage."""
    sampling = Sampling(
        max_tokens=1, top_p=0.9, repetition_penalty=1.1, logprobs=MAX_LOGPROBS, min_tokens=1
    )
    return _step(layout.largest_rows(limits), sampling, limits)


def _step(rows: Sequence[tuple[int, int]], sampling: Sampling, limits: Limits) -> StepCommand:
    """New sequences, one for each (tokens to compute, tokens in all) of ``rows``.

    Of each only the last tokens are computed; what comes before is whatever the cache holds. All
    of them lie in block 0: no more of a cache is needed.
    """
    token_ids = (0,) * max(context_len for _, context_len in rows)
    most = limits.max_context
    sampling = replace(sampling, max_tokens=most, min_tokens=most if sampling.min_tokens else 0)
    admissions = [
        Admission(
            sequence_id=number,
            job_id="",
            index=0,
            token_ids=token_ids[:context_len],
            num_prompt_tokens=1,
            sampling=sampling,
            num_computed=context_len - num_tokens,
            block_ids=(0,) * num_blocks_for(context_len, limits.block_size),
        )
        for number, (num_tokens, context_len) in enumerate(rows)
    ]
    return StepCommand(
        epoch=0,
        incarnation="",
        step=0,
        admissions=tuple(admissions),
        row_sequence_ids=tuple(range(len(rows))),
        row_num_tokens=tuple(num_tokens for num_tokens, _ in rows),
        row_num_new_blocks=(0,) * len(rows),
    )
