"""Several models behind one door: which of them a call is for, and lists of all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from uuid import uuid4

import pytest

from scheduler_svc.frontend.front_end import FrontEnd, Readiness
from scheduler_svc.frontend.front_ends import FrontEnds
from scheduler_svc.frontend.listing import Listing
from scheduler_svc.queue import JobQueue
from scheduler_svc.settings import ApiSettings
from scheduler_svc.text.model_card import ModelCard
from stepserve.protocol.errors import InvalidRequest, NotFound
from stepserve.protocol.inference import Request
from stepserve.protocol.sampling import SamplingParams
from tests.scheduler_svc.api.served import WAIT_S, Lane, front_ends_of

SHORT = SamplingParams(max_tokens=4)


@pytest.fixture
async def both(redis_url: str, card: ModelCard) -> AsyncIterator[FrontEnds]:
    """Two models; that called b.../small has a smaller context."""
    unique = uuid4().hex[:8]
    cards = [
        replace(card, name=f"a-{unique}"),
        replace(card, name=f"b-{unique}/small", max_context=8),
    ]
    async with AsyncExitStack() as stack:
        queues = [await stack.enter_async_context(JobQueue(redis_url, c.name)) for c in cards]
        for queue in queues:
            await queue.adopt_order()
        pairs = zip(queues, cards, strict=True)
        yield FrontEnds([FrontEnd(queue, c, ApiSettings()) for queue, c in pairs])


def request(model: str, num_tokens: int = 3) -> Request:
    return Request(prompt_token_ids=[5] * num_tokens, model=model, sampling=SHORT)


async def test_a_request_goes_to_the_model_that_it_names(both: FrontEnds) -> None:
    a, b = (each.model for each in both.all)
    stored = await both.submit(request(b))
    job = await both.get(stored.job_id)
    assert (job.model, await both.of(b).queue.num_queued()) == (b, 1)
    assert await both.of(a).queue.num_queued() == 0
    await both.submit(request(a, 20))
    with pytest.raises(InvalidRequest, match="leave no room in a context of 8"):
        await both.submit(request(b, 20))


async def test_what_is_not_served_is_refused_and_told_what_is(both: FrontEnds) -> None:
    a, b = (each.model for each in both.all)
    with pytest.raises(NotFound, match=f"^model 'c' is not served here; '{a}', '{b}' are$"):
        await both.submit(request("c"))
    with pytest.raises(InvalidRequest, match=f"^model: is needed: '{a}', '{b}' are served here$"):
        both.generate(request(""))
    assert (await both.page(Listing())).jobs == ()


async def test_a_job_is_found_by_its_id_whichever_model_it_is_of(both: FrontEnds) -> None:
    for each in both.all:
        job_id = (await both.submit(request(each.model))).job_id
        assert (await both.get(job_id)).model == each.model
        assert await both.find(job_id.rpartition("~")[2]) == job_id
        assert (await both.cancel(job_id)).state == "ended"
        await both.delete(job_id)
        for unknown in (job_id, "nothing", "~", f"other~{uuid4().hex}"):
            with pytest.raises(NotFound):
                await both.get(unknown)


async def test_lists_are_of_all_models_or_of_one_and_go_on_where_they_were(
    both: FrontEnds,
) -> None:
    a, b = (each.model for each in both.all)
    ids = [(await both.submit(request(model))).job_id for model in (a, b, b, a, b)]
    for model in (a, b):
        found = (await both.page(Listing(), model)).jobs
        assert {job.model for job in found} == {model}
    seen, token = list[str](), ""
    for _ in ids:
        page = await both.page(Listing(limit=1, page_token=token))
        seen += [job.job_id for job in page.jobs]
        token = page.next_page_token
    assert (seen, token) == (ids[::-1], "")
    with pytest.raises(NotFound, match="'c' is not served"):
        await both.page(Listing(), "c")
    assert [(m.name, m.num_queued_jobs) for m in await both.models()] == [(a, 2), (b, 3)]


async def test_a_model_without_workers_does_not_make_the_others_unready(both: FrontEnds) -> None:
    told: asyncio.Queue[Readiness] = asyncio.Queue()
    task = asyncio.create_task(both.run(told.put))
    async with asyncio.timeout(WAIT_S):
        while await told.get() != Readiness(takes_jobs=True, computes=False):
            pass
        [first, _] = both.all
        lease = await first.queue.acquire("worker", "test", ttl_ms=60_000)
        assert lease is not None
        while not (await told.get()).computes:
            pass
        await Lane(first.queue, lease).leave()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_the_only_model_need_not_be_named(redis_url: str, card: ModelCard) -> None:
    name = f"only-{uuid4().hex[:8]}"
    async with JobQueue(redis_url, name) as queue:
        await queue.adopt_order()
        only = front_ends_of(queue, replace(card, name=name), ApiSettings())
        stored = await only.submit(request(""))
        assert (await only.get(stored.job_id)).model == name
        with pytest.raises(NotFound, match=f"'c' is not served here; '{name}' is"):
            await only.submit(request("c"))


async def test_another_tenant_s_job_is_not_told_from_one_that_is_not_there(
    both: FrontEnds,
) -> None:
    a, _ = (each.model for each in both.all)
    stored = await both.submit(replace(request(a), tenant="x"))
    unique = stored.job_id.rpartition("~")[2]
    assert await both.find(unique, "x") == stored.job_id
    assert await both.find(unique, "y") == ""
    for call in (both.get, both.cancel, both.delete):
        with pytest.raises(NotFound):
            await call(stored.job_id, "y")
    assert (await both.get(stored.job_id, "x")).state == "queued"
