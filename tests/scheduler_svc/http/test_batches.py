"""Files and batches: handed in, answered whatever happens, given back; by OpenAI's client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from time import monotonic
from typing import Any

import openai
import pytest
from openai.types.batch_request_counts import BatchRequestCounts as Counts

from scheduler_svc.frontend import batches as frontend_batches
from scheduler_svc.http import batch_runner
from scheduler_svc.http.call import Call
from stepserve.protocol.errors import BegunAnew
from stepserve.protocol.job import Finish
from tests.scheduler_svc.http.served import HttpServed

ENDPOINT = "/v1/completions"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_runner, "POLL_INTERVAL_S", 0.02)
    monkeypatch.setattr(batch_runner, "_RETRY_S", 0.02)
    monkeypatch.setattr(frontend_batches, "MINDER_TTL_MS", 300)


def line(custom_id: str, endpoint: str = ENDPOINT, **body: Any) -> str:
    given = {"prompt": "Once", "max_tokens": 20, **body}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": endpoint, "body": given})


def runner_of(served: HttpServed) -> batch_runner.BatchRunner:
    assert served.server is not None
    return served.server._app.runner


async def started(client: openai.AsyncOpenAI, lines: Sequence[str], **more: Any) -> Any:
    content = "\n".join(lines).encode()
    file = await client.files.create(file=("in.jsonl", content), purpose="batch")
    assert (file.bytes, file.filename) == (len(content), "in.jsonl")
    return await client.batches.create(
        input_file_id=file.id, endpoint=ENDPOINT, completion_window="24h", **more
    )


async def ended(served: HttpServed, client: openai.AsyncOpenAI, batch_id: str) -> Any:
    async def is_over() -> bool:
        return (await client.batches.retrieve(batch_id)).status in (
            "completed", "failed", "expired", "cancelled",
        )  # fmt: skip

    await served.until(is_over)
    return await client.batches.retrieve(batch_id)


async def results(client: openai.AsyncOpenAI, file_id: str | None) -> dict[str, Any]:
    assert file_id is not None
    content = (await client.files.content(file_id)).text
    return {each["custom_id"]: each for each in map(json.loads, content.splitlines())}


@asynccontextmanager
async def answering(served: HttpServed, texts: dict[str, str]) -> AsyncIterator[list[str]]:
    """Answer each job that comes by what its prompt is; tells the jobs."""
    seen: list[str] = []

    async def answer() -> None:
        assert served.card.tokenizer is not None
        while True:
            job = await served.lane.claim()
            seen.append(job.spec.job_id)
            prompt = served.card.tokenizer.decode(job.spec.prompt_token_ids)
            await served.say_in(job, texts[prompt], chunk=100)

    task = asyncio.create_task(answer())
    try:
        yield seen
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_batch_is_answered(served: HttpServed) -> None:
    async with served.openai() as client, answering(served, {"a": "one", "b": "two"}) as jobs:
        lines = [line("x", prompt="a"), line("y", prompt="b", n=2), line("z", top_p=7)]
        batch = await started(client, [*lines, ""], metadata={"of": "me"})
        assert batch.status == "validating"
        batch = await ended(served, client, batch.id)
        assert batch.status == "completed"
        assert batch.metadata == {"of": "me"}
        counts = batch.request_counts
        assert (counts.total, counts.completed, counts.failed) == (3, 2, 1)
        good = await results(client, batch.output_file_id)
        said = {i: [c["text"] for c in r["response"]["body"]["choices"]] for i, r in good.items()}
        assert said == {"x": ["one"], "y": ["two", "two"]}
        bad = await results(client, batch.error_file_id)
        assert bad["z"]["response"]["status_code"] == 400
        assert bad["z"]["response"]["body"]["error"]["param"] == "top_p"
        specs = [(await served.queue.job(job)) for job in jobs]
        assert {job.spec.priority for job in specs if job is not None} == {-5}
        assert [each.id async for each in client.batches.list()] == [batch.id]


async def test_a_batch_goes_on_where_another_replica_left_it(served: HttpServed) -> None:
    async with served.openai() as client:
        batch = await started(client, [line("x", prompt="a"), line("y", prompt="b")])
        jobs = [await served.lane.claim() for _ in range(2)]
        await served.say_in(jobs[0], "one")
        address = served.address

        async def is_noted() -> bool:
            counts = (await client.batches.retrieve(batch.id)).request_counts
            return counts is not None and counts.completed == 1

        await served.until(is_noted)
        await served.stop()
        await served.start()
        assert served.address == address
        await served.say_in(jobs[1], "two")
        found = await ended(served, client, batch.id)
        assert found.status == "completed"
        said = await results(client, found.output_file_id)
        texts = [r["response"]["body"]["choices"][0]["text"] for r in said.values()]
        assert sorted(texts) == ["one", "two"]
        assert len(await served.queue.jobs()) == 2  # neither was made twice


async def test_a_cancelled_batch_ends_with_what_it_has(served: HttpServed) -> None:
    async with served.openai() as client:
        batch = await started(client, [line("x"), line("y")])
        jobs = [await served.lane.claim() for _ in range(2)]
        await served.say_in(jobs[0], "one")

        async def is_noted() -> bool:
            counts = (await client.batches.retrieve(batch.id)).request_counts
            return counts is not None and counts.completed == 1

        await served.until(is_noted)
        assert (await client.batches.cancel(batch.id)).status == "cancelling"
        found = await ended(served, client, batch.id)
        assert found.status == "cancelled"
        assert len(await results(client, found.output_file_id)) == 1
        [left] = (await results(client, found.error_file_id)).values()
        assert left["error"]["code"] == "batch_cancelled"
        with pytest.raises(openai.ConflictError):
            await client.with_options(max_retries=0).batches.cancel(batch.id)


@pytest.mark.parametrize(
    ("lines", "end", "total"),
    [([line("x")], "cancelled", 1), ([line("x"), "no json"], "failed", 0)],
)
async def test_a_batch_that_is_cancelled_before_it_is_begun_ends(
    served: HttpServed, monkeypatch: pytest.MonkeyPatch, lines: list[str], end: str, total: int
) -> None:
    async with served.openai() as client:
        with monkeypatch.context() as patch:
            patch.setattr(runner_of(served)._turns, "_places", 0)
            batch = await started(client, lines)
            assert (await client.batches.cancel(batch.id)).status == "cancelling"
        found = await ended(served, client, batch.id)
        assert (found.status, found.request_counts.total) == (end, total)
        assert not await served.queue.jobs()


async def test_there_are_only_so_many(served: HttpServed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frontend_batches, "MAX_BATCHES", 1)
    async with served.openai(max_retries=0) as client:
        await started(client, [line("x")])
        with pytest.raises(openai.RateLimitError):
            await started(client, [line("y")])


async def test_a_batch_has_a_day(served: HttpServed) -> None:
    assert served.front_end is not None
    async with served.openai() as client:
        batch = await started(client, [line("x")])
        await served.lane.claim()
        changed = await served.front_end.batches.change(batch.id, lambda b: replace(b, expires_s=1))
        assert changed is not None
        found = await ended(served, client, batch.id)
        assert found.status == "expired"
        [left] = (await results(client, found.error_file_id)).values()
        assert left["error"]["code"] == "batch_expired"


async def test_a_job_that_somebody_else_cancelled_is_made_again(served: HttpServed) -> None:
    async with served.openai() as client:
        batch = await started(client, [line("x")])
        job = await served.lane.claim()
        await served.lane.commit(job.spec.job_id, [], Finish("cancelled"))
        await served.say("again")
        found = await ended(served, client, batch.id)
        said = await results(client, found.output_file_id)
        assert said["x"]["response"]["body"]["choices"][0]["text"] == "again"


async def test_a_job_that_is_begun_anew_goes_on_and_is_not_made_again(served: HttpServed) -> None:
    """What was read of it counts no more; another would be computed beside it."""
    complete, keys = runner_of(served)._complete, list[str]()
    answer = complete[ENDPOINT]

    async def begun_anew_at_first(call: Call) -> dict[str, Any]:
        keys.append(call.key)
        if len(keys) == 1:
            raise BegunAnew("on another model")
        return await answer(call)

    complete[ENDPOINT] = begun_anew_at_first  # type: ignore[index]
    async with served.openai() as client:
        batch = await started(client, [line("x")])
        await served.say("again")
        found = await ended(served, client, batch.id)
        said = await results(client, found.output_file_id)
        assert said["x"]["response"]["body"]["choices"][0]["text"] == "again"
        assert keys == [f"{batch.id}/1/0"] * 2


async def test_a_broken_record_is_no_other_batch_s_and_no_other_file_s_trouble(
    served: HttpServed,
) -> None:
    whole = asdict(frontend_batches.new_batch("", ENDPOINT, "file-1", {}))
    broken = ["text", {}, {**whole, "times": [1]}, {**whole, "tenant": 5}, {**whole, "later": 1}]
    async with served.openai() as client:
        for kind in ("batch", "file"):
            shelf = served.queue.shelf(kind, object)
            for number, record in enumerate(broken):
                await shelf.put(f"{kind}-{number}", record, is_open=kind == "batch", ttl_s=60)
        batch = await started(client, [line("x")])
        await served.say("one")
        assert (await ended(served, client, batch.id)).status == "completed"
        [listed] = (await client.batches.list()).data
        assert (listed.id, listed.request_counts) == (
            batch.id,
            Counts(completed=1, failed=0, total=1),
        )
        assert len((await client.files.list()).data) == 2, "what was asked, and what came of it"
        with pytest.raises(openai.InternalServerError):
            await client.with_options(max_retries=0).batches.retrieve("batch-0")


async def test_a_tenant_s_batches_leave_places_to_another_s(
    served: HttpServed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_runner, "MAX_LINES_AT_ONCE", 1)
    places = batch_runner.MAX_BATCHES_AT_ONCE
    async with served.openai() as many, served.openai(default_headers={"x-tenant": "b"}) as one:
        for _ in range(places + 1):
            await started(many, [line("x"), line("y"), line("z")])
        first = [await served.lane.claim() for _ in range(places)]
        assert {job.spec.tenant for job in first} == {""}
        await started(one, [line("x")])

        async def is_making_room() -> bool:
            return bool(runner_of(served)._leaving)

        await served.until(is_making_room)
        for job in first:
            await served.say_in(job, "one")
        then = [await served.lane.claim() for _ in range(places)]
        assert sorted(job.spec.tenant for job in then) == ["", "", "", "b"]


async def test_lines_that_wait_for_long_keep_no_place(
    served: HttpServed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_runner, "TURN_S", 0.0)
    places = batch_runner.MAX_BATCHES_AT_ONCE
    async with served.openai() as many, served.openai(default_headers={"x-tenant": "b"}) as one:
        for _ in range(places):
            await started(many, [line("x")])
        for _ in range(places):
            assert (await served.lane.claim()).spec.tenant == ""
        await started(one, [line("x")])
        assert (await served.lane.claim()).spec.tenant == "b", "though no other has ended"
        assert len(runner_of(served)._tasks) == places + 1, "and none is worked on twice"


async def test_a_batch_that_leaves_when_all_is_under_way_ends_for_good(served: HttpServed) -> None:
    runner = runner_of(served)
    async with served.openai() as client:
        batch = await started(client, [line("x")])
        job = await served.lane.claim()
        runner._leaving[batch.id] = monotonic()
        runner._begin = lambda *_: None  # type: ignore[method-assign]
        await served.say_in(job, "one")
        assert (await ended(served, client, batch.id)).status == "completed"


@pytest.mark.parametrize(
    ("lines", "number"),
    [
        ([line("x"), "no json"], 2),
        ([line("x"), line("x")], 2),
        ([line("")], 1),
        ([line("x", endpoint="/v1/other")], 1),
        ([line("x", stream=True)], 1),
        (["[1]"], 1),
        ([" "], None),
    ],
)
async def test_a_file_that_is_no_batch_fails_and_says_where(
    served: HttpServed, lines: list[str], number: int | None
) -> None:
    async with served.openai() as client:
        batch = await started(client, lines)
        found = await ended(served, client, batch.id)
        assert found.status == "failed"
        assert [error.line for error in found.errors.data] == [number]
        assert not await served.queue.jobs()


async def test_files_are_kept_listed_and_forgotten(served: HttpServed) -> None:
    async with served.openai(max_retries=0) as client:
        content = bytes(range(256)) * 3000  # several pieces
        made = await client.files.create(file=("b.bin", content), purpose="batch")
        other = await client.files.create(file=("c.bin", b"c"), purpose="batch")
        assert [file.id async for file in client.files.list()] == [other.id, made.id]
        assert [file.id for file in (await client.files.list(limit=1)).data] == [other.id]
        assert (await client.files.content(made.id)).content == content
        assert (await client.files.retrieve(made.id)).model_dump() == made.model_dump()
        elsewhere = client.with_options(default_headers={"x-tenant": "another"})
        with pytest.raises(openai.NotFoundError):
            await elsewhere.files.content(made.id)
        assert (await elsewhere.files.list()).data == []
        assert (await client.files.delete(made.id)).deleted
        with pytest.raises(openai.NotFoundError):
            await client.files.retrieve(made.id)
        for name, given in (("purpose", {"purpose": "vision"}), ("file", {"purpose": "batch"})):
            files = {"file": ("x", b"x")} if name == "purpose" else {"other": ("x", b"x")}
            answer = await served.http.post("/v1/files", data=given, files=files)
            assert answer.status_code == 400
            assert answer.json()["error"]["param"] == name
