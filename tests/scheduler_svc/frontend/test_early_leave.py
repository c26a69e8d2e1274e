"""A client that goes away while its job is being stored leaves no job that runs for nobody."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from scheduler_svc.frontend.front_end import FrontEnd
from scheduler_svc.queue import JobQueue
from scheduler_svc.settings import ApiSettings
from scheduler_svc.text.model_card import ModelCard
from stepserve.protocol.inference import Request


@pytest.mark.parametrize("is_watched", [True, False])
async def test_a_job_ends_whose_client_left_before_it_was_stored(
    redis_url: str, card: ModelCard, is_watched: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with JobQueue(redis_url, card.name) as queue:
        await queue.adopt_order()
        front_end = FrontEnd(queue, card, ApiSettings())
        begun, go_on, stored = asyncio.Event(), asyncio.Event(), asyncio.Event()
        submit = queue.submit

        async def slow_submit(*given: Any) -> Any:
            begun.set()
            await go_on.wait()
            try:
                return await submit(*given)
            finally:
                stored.set()

        monkeypatch.setattr(queue, "submit", slow_submit)
        request = Request(prompt="x", cancel_on_disconnect=is_watched)
        asked = asyncio.create_task(anext(front_end.generate(request, grace_s=0.0)))
        await begun.wait()
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        go_on.set()
        await stored.wait()
        wanted = "ended" if is_watched else "queued"
        async with asyncio.timeout(10):
            while [job.state for job in await queue.jobs()] != [wanted]:
                await asyncio.sleep(0.01)


async def test_a_client_that_is_back_already_keeps_its_job(
    redis_url: str, card: ModelCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with JobQueue(redis_url, card.name) as queue:
        await queue.adopt_order()
        front_end = FrontEnd(queue, card, ApiSettings())
        stored, go_on = asyncio.Event(), asyncio.Event()
        submit = queue.submit

        async def slow_answer(*given: Any) -> Any:
            answer = await submit(*given)
            stored.set()
            await go_on.wait()
            return answer

        request = Request(prompt="x", cancel_on_disconnect=True, idempotency_key="again")
        monkeypatch.setattr(queue, "submit", slow_answer)
        asked = asyncio.create_task(anext(front_end.generate(request, grace_s=0.0)))
        await stored.wait()
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        monkeypatch.setattr(queue, "submit", submit)
        back = front_end.generate(request, grace_s=0.0)
        assert (await anext(back)).existed
        go_on.set()
        await asyncio.sleep(0)
        assert not front_end.absence.num_away
        await back.aclose()
        async with asyncio.timeout(10):
            while [job.state for job in await queue.jobs()] != ["ended"]:
                await asyncio.sleep(0.01)
