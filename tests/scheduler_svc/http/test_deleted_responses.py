"""A response that was deleted is nowhere any more, and nothing else is gone with it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest

from scheduler_svc.queue import JobQueue
from tests.scheduler_svc.http.served import HttpServed

ASKED = {"input": "Hi", "background": True}


async def made(served: HttpServed, text: str = "yes", **body: Any) -> dict[str, Any]:
    """Return a whole response."""
    asked = asyncio.create_task(served.post("/v1/responses", {"input": "Hi", **body}))
    await served.say(text)
    return dict((await asked).json())


@asynccontextmanager
async def another_replica(redis_url: str, served: HttpServed) -> AsyncIterator[HttpServed]:
    async with (
        JobQueue(redis_url, served.card.name) as queue,
        HttpServed(queue, served.card, served.lane) as other,
    ):
        assert isinstance(other, HttpServed)
        yield other


async def statuses(served: HttpServed, response_id: str) -> set[int]:
    """Return how every way to ask for it is answered."""
    path, http = f"/v1/responses/{response_id}", served.http
    answers = [
        await http.get(path),
        await http.get(f"{path}?stream=true"),
        await http.delete(path),
        await http.post(f"{path}/cancel"),
        await served.post("/v1/responses", {**ASKED, "previous_response_id": response_id}),
    ]
    return {answer.status_code for answer in answers}


async def test_it_is_gone_on_every_replica_and_after_a_restart(
    redis_url: str, served: HttpServed
) -> None:
    async with another_replica(redis_url, served) as other:
        gone, kept = await made(served), await made(served)
        path = f"/v1/responses/{gone['id']}"
        assert (await other.http.get(path)).status_code == 200
        answer = await served.http.delete(path)
        told = {"id": gone["id"], "object": "response.deleted", "deleted": True}
        assert (answer.status_code, answer.json()) == (200, told)
        assert await statuses(served, gone["id"]) == await statuses(other, gone["id"]) == {404}
        await served.stop()
        await served.start()
        assert await statuses(served, gone["id"]) == {404}
        assert (await served.http.get(f"/v1/responses/{kept['id']}")).json() == kept


async def test_nothing_of_it_is_kept(served: HttpServed) -> None:
    asked = asyncio.create_task(
        served.post("/v1/responses", {"input": "Hi"}, idempotency_key="mine")
    )
    job = await served.say("yes")
    response_id = (await asked).json()["id"]
    assert (await served.http.delete(f"/v1/responses/{response_id}")).status_code == 200
    job_id = job.spec.job_id
    assert await served.queue.job(job_id) is None
    assert (list(await served.queue.prompt(job_id)), await served.queue.edge_of(job_id)) == ([], "")
    # Its key is free again, and so names another one.
    again = await served.post("/v1/responses", ASKED, idempotency_key="mine")
    assert again.status_code == 200
    assert again.json()["id"] != response_id


async def test_one_that_goes_on_is_cancelled_first(served: HttpServed) -> None:
    async with served.openai(max_retries=0) as client:
        begun = await client.responses.create(model=served.card.name, input="Hi", background=True)
        job = await served.lane.claim()
        await served.lane.commit(job.spec.job_id, served.ids("a"))
        path = f"/v1/responses/{begun.id}?stream=true"
        async with served.http.stream("GET", path) as stream:
            lines = stream.aiter_lines()
            async for line in lines:
                if line.startswith("data: ") and json.loads(line[6:])["type"].endswith(".delta"):
                    break
            await client.responses.delete(begun.id)
            rest = [json.loads(line[6:]) async for line in lines if line.startswith("data: {")]
        # Who follows it is told so, by its end or by its being gone.
        assert rest[-1]["type"] in ("response.cancelled", "error")
        assert await served.queue.num_queued() == 0
        assert await served.queue.ended_of([job.spec.job_id]) == set()
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(begun.id)
        with pytest.raises(openai.NotFoundError):
            await client.responses.delete(begun.id)


async def test_what_is_no_stored_response_is_not_deleted(served: HttpServed) -> None:
    unstored = await made(served, store=False)
    asked = asyncio.create_task(served.post("/v1/completions", {"prompt": "x"}))
    completion = await served.say("yes")
    other = (await asked).json()["id"].replace("cmpl-", "resp_")
    mine = await made(served)
    for response_id, tenant in ((unstored["id"], ""), (other, ""), (mine["id"], "another")):
        headers = {"x-tenant": tenant} if tenant else {}
        answer = await served.http.delete(f"/v1/responses/{response_id}", headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    assert await served.queue.job(completion.spec.job_id) is not None
    assert (await served.http.get(f"/v1/responses/{mine['id']}")).status_code == 200
