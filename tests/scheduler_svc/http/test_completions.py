"""Completions, whole and streamed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from scheduler_svc.http import server, sse
from scheduler_svc.queue import QueueLimits
from scheduler_svc.text.model_card import ModelCard
from stepserve.protocol.job import Finish
from stepserve.protocol.step import TokenLogprobs
from tests.scheduler_svc.http.served import HttpServed, events_of, http_serving


async def both(served: HttpServed, body: dict[str, Any], *texts: str) -> Any:
    asked = asyncio.create_task(served.post("/v1/completions", body))
    for text in texts:
        await served.say(text)
    return await asked


async def test_a_completion_is_answered_whole(served: HttpServed) -> None:
    answer = await both(served, {"prompt": "Once", "model": served.card.name}, "a small dog")
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["object"] == "text_completion"
    assert body["id"].startswith("cmpl-")
    [choice] = body["choices"]
    assert choice == {
        "index": 0, "text": "a small dog", "logprobs": None, "finish_reason": "stop",
    }  # fmt: skip
    num_tokens = len(served.ids("a small dog"))
    assert body["usage"]["completion_tokens"] == num_tokens
    assert body["usage"]["total_tokens"] == body["usage"]["prompt_tokens"] + num_tokens


async def test_prompts_may_be_texts_or_ids_or_lists_of_either(served: HttpServed) -> None:
    ids = served.ids("Once")
    for prompt in ("Once", ids, ["Once", "Once"], [ids, ids]):
        num = 2 if isinstance(prompt[0], list) or prompt == ["Once", "Once"] else 1
        body = {"prompt": prompt, "n": 2, "return_token_ids": True, "echo": True}
        answer = await both(served, body, *["dog"] * num)
        choices = answer.json()["choices"]
        assert [choice["index"] for choice in choices] == list(range(2 * num))
        assert {choice["text"] for choice in choices} == {"Oncedog"}
        assert all(choice["token_ids"] == served.ids("dog") for choice in choices)
        assert all(choice["prompt_token_ids"][-len(ids) :] == ids for choice in choices)


@pytest.mark.parametrize("stream", [False, True])
async def test_of_several_prompts_none_is_begun_where_one_is_wrong(
    served: HttpServed, stream: bool
) -> None:
    body = {"prompt": ["Once", [2**31 - 1]], "stream": stream}
    answer = await served.post("/v1/completions", body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"].startswith("prompt")
    assert not await served.queue.jobs()


@pytest.mark.parametrize("prompts", [1, 2])
async def test_a_stream_ends_with_reasons_usage_and_done(served: HttpServed, prompts: int) -> None:
    body = {
        "prompt": ["Once"] * prompts,
        "stream": True,
        "n": 2,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }
    answer = await both(served, body, *["a dog"] * prompts)
    assert answer.headers["content-type"].startswith("text/event-stream")
    *chunks, usage, done = events_of(answer.text)
    assert done == "[DONE]"
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 2 * prompts * len(served.ids("a dog"))
    assert chunks[-1]["usage"] == usage["usage"]
    for index in range(2 * prompts):
        mine = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == index]
        assert "".join(choice["text"] for choice in mine) == "a dog"
        assert [c["finish_reason"] for c in mine if c["finish_reason"]] == ["stop"]
    assert len({chunk["id"] for chunk in chunks}) == 1


async def test_logprobs_have_their_tokens(served: HttpServed) -> None:
    [other] = served.ids("z")
    body = {"prompt": "x", "logprobs": 2}
    asked = asyncio.create_task(served.post("/v1/completions", body))
    await served.say("ab", logprobs=lambda i: TokenLogprobs(-0.5, ((i, -0.5), (other, -1.5))))
    [choice] = (await asked).json()["choices"]
    logprobs = choice["logprobs"]
    assert "".join(logprobs["tokens"]) == "ab"
    assert logprobs["token_logprobs"] == [-0.5] * len(served.ids("ab"))
    assert logprobs["text_offset"][0] == 0
    assert all(top["z"] == -1.5 for top in logprobs["top_logprobs"])


@pytest.mark.parametrize(
    ("reason", "status", "code"),
    [
        ("error", 500, "job_failed"),
        ("cancelled", 409, "job_cancelled"),
        ("deadline", 504, "deadline_exceeded"),
    ],
)
async def test_what_came_to_no_end_is_an_error(
    served: HttpServed, reason: str, status: int, code: str
) -> None:
    for stream in (False, True):
        body = {"prompt": "x", "stream": stream}
        asked = asyncio.create_task(served.post("/v1/completions", body))
        job = await served.lane.claim()
        await served.lane.commit(job.spec.job_id, served.ids("a"))
        await served.lane.commit(job.spec.job_id, [], Finish(reason, "so it was"))
        answer = await asked
        if stream:
            assert answer.status_code == 200
            error = events_of(answer.text)[-1]["error"]
        else:
            assert answer.status_code == status
            assert answer.headers["x-should-retry"] == "false"
            error = answer.json()["error"]
        assert error["code"] == code
        assert error["message"] == "so it was"


async def test_a_client_that_goes_away_cancels_its_job(served: HttpServed) -> None:
    for stream in (False, True):
        body = {"prompt": "x", "stream": stream, "max_tokens": 20}
        asked = asyncio.create_task(served.post("/v1/completions", body))
        job = await served.lane.claim()
        await served.lane.commit(job.spec.job_id, served.ids("a"))
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)

        async def is_cancelled(job_id: str = job.spec.job_id) -> bool:
            found = await served.queue.job(job_id)
            return found is not None and found.state == "ended"

        began = asyncio.get_running_loop().time()
        await served.until(is_cancelled)
        assert asyncio.get_running_loop().time() - began < 2.0  # the usual grace is 5 s


async def test_a_stream_goes_on_after_the_last_event_that_was_read(served: HttpServed) -> None:
    body = {"prompt": "x", "stream": True, "max_tokens": 20}
    key = {"idempotency_key": "a key"}
    asked = asyncio.create_task(served.post("/v1/completions", body, **key))
    await served.say("a small dog")
    whole = (await asked).text
    blocks = whole.split("\n\n")[:-2]  # without the mark
    texts = [events_of(block)[0]["choices"][0]["text"] for block in blocks]
    for at, block in enumerate(blocks):
        last_id = block.split("\n")[0].removeprefix("id: ")
        again = await served.post("/v1/completions", body, last_event_id=last_id, **key)
        rest = [c["choices"][0]["text"] for c in events_of(again.text)[:-1]]
        assert "".join(texts[: at + 1] + rest) == "a small dog"


async def test_an_idempotency_key_finds_its_job(served: HttpServed) -> None:
    body = {"prompt": ["x", "y"], "max_tokens": 20}
    asked = asyncio.create_task(served.post("/v1/completions", body, idempotency_key="k"))
    await served.say("one")
    await served.say("two")
    first = (await asked).json()
    again = (await served.post("/v1/completions", body, idempotency_key="k")).json()
    assert again["choices"] == first["choices"]
    other = await served.post("/v1/completions", {"prompt": "z"}, idempotency_key="k")
    assert other.status_code == 400
    assert other.json()["error"]["code"] == "idempotency_key_in_use"


async def test_no_other_stream_is_gone_on_with(served: HttpServed) -> None:
    """An id of a job with another number of outputs, of another tenant, or of none."""
    body = {"prompt": "x", "stream": True}
    asked = asyncio.create_task(served.post("/v1/completions", body))
    job = await served.say("a dog")
    await asked
    unique = job.spec.job_id.rpartition("~")[2]
    chat = {"messages": [{"role": "user", "content": "x"}], "stream": True, "logprobs": True}
    for path, given in (("/v1/completions", body), ("/v1/chat/completions", chat)):
        for place, status, more in (
            ("nonsense", 400, {}),
            (f"{unique}:1-1.1-1", 400, {}),
            (f"{unique}:1-1.1-1", 400, {"n": 2}),
            (f"{'0' * 32}:1-1", 404, {}),
            (f"{unique}:1-1", 200, {}),
        ):
            answer = await served.post(path, {**given, **more}, last_event_id=place)
            assert answer.status_code == status, (path, place, answer.text)
        own = {"last_event_id": f"{unique}:1-1", "x_tenant": "another"}
        assert (await served.post(path, given, **own)).status_code == 404


async def test_a_full_queue_says_when_to_try_again(redis_url: str, card: ModelCard) -> None:
    limits = QueueLimits(max_queued_jobs=1)
    async with http_serving(redis_url, card, limits=limits) as served:
        background = {"input": "x", "background": True}
        assert (await served.post("/v1/responses", background)).status_code == 200
        for path, body in (
            ("/v1/completions", {"prompt": "x"}),
            ("/v1/completions", {"prompt": "x", "stream": True}),
            ("/v1/responses", background),
        ):
            answer = await served.post(path, body)
            assert answer.status_code == 429
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.json()["error"]["code"] == "rate_limit_exceeded"


async def test_a_stream_that_waits_is_not_silent(
    redis_url: str, card: ModelCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "SILENCE_S", 0.0)
    monkeypatch.setattr(server, "PULSE_S", 0.01)
    async with http_serving(redis_url, card) as served:
        body = {"prompt": "x", "stream": True}
        async with served.http.stream("POST", "/v1/completions", json=body) as stream:
            lines = stream.aiter_lines()
            assert await anext(lines) == ": waiting"
            await served.say("dog")
            told = [line async for line in lines]
        assert told[-2:] == ["data: [DONE]", ""]
