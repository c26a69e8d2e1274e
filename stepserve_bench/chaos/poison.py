"""A job that crashes whichever worker runs it, until it is convicted of that."""

from __future__ import annotations

import math
from collections.abc import Sequence

from stepserve import AsyncClient, Request, RetryPolicy, SamplingParams
from stepserve.protocol.errors import StepserveError
from stepserve_bench.oracle_worker.oracle import FIRST_TOKEN, POISON

TIMEOUT_S = 120.0
REQUEST = Request(
    prompt_token_ids=(FIRST_TOKEN, POISON),
    sampling=SamplingParams(max_tokens=8, temperature=0.0, ignore_eos=True),
)


async def convicted(targets: Sequence[str]) -> str:
    """Submit one and wait for its end, which is to be an error; return what is wrong with it.

    The service forgets it then: it is no job of the load.
    """
    policy = RetryPolicy(patience_s=TIMEOUT_S)
    async with AsyncClient(",".join(targets), policy) as client:
        try:
            job_id = await client.submit(REQUEST)
            done = await client.result(job_id, timeout=TIMEOUT_S)
            await client.delete(job_id)
        except StepserveError as error:
            return f"poison: {type(error).__name__}: {error}"
    [output] = done.outputs
    if output.finish_reason == "error":
        return ""
    return f"poison: it ended with {output.finish_reason!r}, {len(output.token_ids)} tokens"


def too_many(num_crashes: int, num_beside: int) -> str:
    """Return what is wrong with one that crashed so many workers among so many other jobs.

    Once with all of them, then by halves, and twice more for what came late or was lost meanwhile.
    """
    most = 1 + math.ceil(math.log2(1 + num_beside)) + 2
    return f"poison: {num_crashes} crashes, {most} at most" if num_crashes > most else ""
