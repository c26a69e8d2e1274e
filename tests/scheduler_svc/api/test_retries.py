"""An idempotency key: a retry is the same job, and nothing else is."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from tests.scheduler_svc.api.served import WAIT_S, Served
from tests.scheduler_svc.api.test_service import refusal, submit


async def test_a_retried_submit_is_the_same_job(served: Served, stub: Any) -> None:
    first = await submit(stub, idempotency_key="k", tenant="ann")
    again = await submit(stub, idempotency_key="k", tenant="ann")
    assert (first.existed, again.existed, again.job_id) == (False, True, first.job_id)
    assert (await submit(stub, idempotency_key="k", tenant="bob")).job_id != first.job_id
    assert await served.queue.num_queued() == 2


@pytest.mark.parametrize(
    "other",
    [
        {"prompt": "Twice"},
        {"prompt": "", "prompt_token_ids": [1, 2]},
        {"sampling": {"max_tokens": 4}},
        {"sampling": {"max_tokens": 3, "logit_bias": {"7": 1.0, "5": 1.0, "6": 2.0}}},
        {"sampling": {"max_tokens": 3, "seed": 1}},
        {"priority": 1},
        {"deadline_s": 9.0},
        {"cancel_on_disconnect": True},
    ],
)
async def test_another_request_with_the_same_key_is_refused(
    served: Served, stub: Any, other: dict[str, Any]
) -> None:
    bias = {str(token): 1.0 for token in (5, 6, 7)}
    asked = {"idempotency_key": "k", "sampling": {"max_tokens": 3, "logit_bias": bias}}
    first = await submit(stub, **asked)
    code, text = await refusal(submit(stub, **{**asked, **other}))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert text.startswith("idempotency_key: ")
    assert first.job_id in text
    assert await served.queue.num_queued() == 1
    again = {**asked, "sampling": {"logit_bias": dict(reversed(bias.items())), "max_tokens": 3}}
    assert (await submit(stub, **again, model=served.card.name)).job_id == first.job_id


async def test_a_retry_has_its_job_though_the_limits_are_lower_by_now(
    served: Served, stub: Any
) -> None:
    asked = {"sampling": {"max_tokens": 40}, "idempotency_key": "k"}
    first = await submit(stub, **asked)
    assert await served.queue.acquire("small", "me", 60_000, {"max_context": "32"})
    async with asyncio.timeout(WAIT_S):
        refused: object = None
        while not isinstance(refused, grpc.aio.AioRpcError):
            other = submit(stub, sampling={"max_tokens": 40})
            [refused] = await asyncio.gather(other, return_exceptions=True)
    assert "sampling.max_tokens" in str(refused.details())
    again = await submit(stub, **asked)
    assert (again.job_id, again.existed) == (first.job_id, True)
    code, text = await refusal(submit(stub, **{**asked, "sampling": {"max_tokens": 41}}))
    assert (code, text.split(":")[0]) == (grpc.StatusCode.INVALID_ARGUMENT, "sampling.max_tokens")
