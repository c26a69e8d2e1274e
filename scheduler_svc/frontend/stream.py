"""A job's outputs merged into the one stream that Attach and Generate send."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace

from scheduler_svc.frontend.follow import FollowHub
from scheduler_svc.frontend.output import OutputStream
from scheduler_svc.queue import JobSnapshot
from scheduler_svc.text.tokenizer import Tokenizer
from stepserve.protocol.errors import InvalidRequest, NotFound, OutOfRange
from stepserve.protocol.inference import OutputInfo, StreamEvent, Usage


def check_offsets(job: JobSnapshot, offset: int, offsets: Sequence[int]) -> list[int]:
    """Return the offset for each output.

    Raises InvalidRequest where they are not as many, OutOfRange for one that is beyond the end
    of an output that has ended, or that no output can reach.
    """
    num_outputs = len(job.outputs)
    if offset and offsets:
        raise InvalidRequest("offsets", "only one of offset and offsets is possible")
    if offsets and len(offsets) != num_outputs:
        problem = f"the job has {num_outputs} outputs, not {len(offsets)}"
        raise InvalidRequest("offsets", problem)
    chosen = list(offsets) or [offset] * num_outputs
    for index, (start, output) in enumerate(zip(chosen, job.outputs, strict=True)):
        field = f"offsets[{index}]" if offsets else "offset"
        if output.finish is not None and start > output.num_tokens:
            problem = f"{start} is beyond the end: the output has {output.num_tokens} tokens"
            raise OutOfRange(field, problem)
        if start > (most := job.spec.sampling.max_tokens):
            raise OutOfRange(field, f"{start} is beyond the {most} tokens it may come to")
    return chosen


async def events(
    hub: FollowHub,
    job: JobSnapshot,
    offsets: Sequence[int],
    tokenizer: Tokenizer | None,
    prompt_ids: Sequence[int] = (),
) -> AsyncGenerator[StreamEvent, None]:
    """Yield a job's events from the offsets on, until its last output has ended.

    The text goes on after ``prompt_ids``, which a snapshot does not have. Raises NotFound
    where the job is forgotten meanwhile; one that a failover took is waited for.
    """
    spec = replace(job.spec, prompt_token_ids=prompt_ids)
    outputs = [OutputStream(spec, index, offset, tokenizer) for index, offset in enumerate(offsets)]
    live = list(outputs)
    del spec, prompt_ids
    with hub.follow(job.spec.job_id) as follower:
        while live:
            logs = await follower.news([output.request() for output in live])
            if None in logs and await hub.may_come_back(follower):
                continue
            for output, log in zip(tuple(live), logs, strict=True):
                if log is None:
                    raise NotFound("the job is forgotten: deleted, or ended too long ago")
                event = output.take(log)
                if output.has_ended:
                    live.remove(output)
                    if not live:
                        assert event is not None
                        event = replace(event, usage=usage_of(job, outputs, log.num_cached))
                if event is not None:
                    yield event


def usage_of(
    job: JobSnapshot,
    outputs: Sequence[OutputStream] | Sequence[OutputInfo],
    num_cached: int | None,
) -> Usage:
    """Return what a job took so far, or all of it."""
    return Usage(job.num_prompt_tokens, sum(output.num_tokens for output in outputs), num_cached)
