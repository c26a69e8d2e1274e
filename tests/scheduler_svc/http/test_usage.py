"""Usage tells how much of a prompt was cached, and says so where nobody knows."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from stepserve.protocol.job import Finish
from tests.scheduler_svc.http.served import HttpServed, events_of

USER = [{"role": "user", "content": "Hi"}]


async def answered(served: HttpServed, *cached: int | None) -> None:
    """Answer as many jobs, of whose prompts so many tokens are cached."""
    for num_cached in cached:
        job_id = (await served.lane.claim()).spec.job_id
        await served.lane.commit(job_id, served.ids("yes"), num_cached=num_cached)
        await served.lane.commit(job_id, [], Finish("stop"))


@pytest.mark.parametrize(
    ("cached", "told"),
    [((16,), 16), ((0,), 0), ((16, 32), 48), ((None,), None), ((16, None), None)],
)
async def test_completions_tell_it_whole_and_streamed(
    served: HttpServed, cached: tuple[int | None, ...], told: int | None
) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    body: dict[str, Any] = {"prompt": ["Once"] * len(cached)}
    asked = asyncio.create_task(served.post("/v1/completions", body))
    await answered(served, *cached)
    whole = (await asked).json()["usage"]
    assert whole["prompt_tokens_details"] == {"cached_tokens": told}
    body |= {"stream": True, "stream_options": options}
    asked = asyncio.create_task(served.post("/v1/completions", body))
    await answered(served, *cached)
    *chunks, last, _ = events_of((await asked).text)
    assert last["usage"] == chunks[-1]["usage"] == whole


async def test_openais_client_reads_it_of_chats_and_responses(served: HttpServed) -> None:
    model: Any = served.card.name
    async with served.openai() as client:
        asked = asyncio.create_task(client.chat.completions.create(model=model, messages=USER))
        await answered(served, 16)
        usage = (await asked).usage
        assert usage is not None
        assert usage.prompt_tokens_details is not None
        assert usage.prompt_tokens_details.cached_tokens == 16
        creating = asyncio.create_task(client.responses.create(model=model, input="Hi"))
        await answered(served, 32)
        made = await creating
        await served.stop()
        await served.start()
    async with served.openai() as client:
        again = await client.responses.retrieve(made.id)
        for response in (made, again):
            assert response.usage is not None
            assert response.usage.input_tokens_details.cached_tokens == 32
