"""What Generate and Attach send, from any offset, at any time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc
import pytest

from scheduler_svc.frontend import output, stream
from scheduler_svc.frontend.follow import FollowHub
from scheduler_svc.frontend.output import MAX_EVENT_TOKENS, OutputStream
from scheduler_svc.text.stops import StopFinder
from stepserve.protocol.errors import InvalidRequest
from stepserve.protocol.inference import StreamEvent, Usage
from stepserve.protocol.inference_wire import AttachRequest, GetJobRequest, decode_event, decode_job
from stepserve.protocol.job import Finish, JobSpec, OutputLog
from stepserve.protocol.sampling import Sampling
from stepserve.protocol.step import TokenLogprobs
from tests.scheduler_svc.api.served import Served, message

TEXT = "Ça déjà vu 🙂🙃 日本語! a small dog."


async def submit(stub: Any, **payload: Any) -> str:
    answer = await stub.Submit(message({"prompt": "Once", **payload}))
    return str(answer.job_id)


async def collect(call: Any) -> list[StreamEvent]:
    return [decode_event(message) async for message in call]


def text_of(events: Sequence[StreamEvent], index: int = 0) -> str:
    return "".join(event.text for event in events if event.index == index)


def tokens_of(events: Sequence[StreamEvent], index: int = 0, start: int = 0) -> list[int]:
    """Return an output's tokens; each event begins where the one before it ended."""
    token_ids: list[int] = []
    for event in events:
        if event.index == index:
            assert event.offset == start + len(token_ids)
            token_ids += event.token_ids
    return token_ids


async def test_a_job_is_streamed_to_its_end(served: Served, stub: Any) -> None:
    job_id = await submit(stub)
    streamed = asyncio.create_task(collect(stub.Attach(AttachRequest(job_id=job_id))))
    claimed = await served.lane.claim()
    assert claimed.spec.job_id == job_id
    ids = served.ids(TEXT)
    for token_id in ids:
        await served.lane.commit(job_id, [token_id])
    await served.lane.commit(job_id, [], Finish("length"))
    events = await streamed
    assert tokens_of(events) == ids
    assert text_of(events) == TEXT
    assert [event.finish_reason for event in events if event.finish] == ["length"]
    assert events[-1].usage == Usage(len(claimed.spec.prompt_token_ids), len(ids))
    assert not any(event.usage for event in events[:-1])


async def test_usage_tells_what_was_cached_from_any_offset_and_of_the_job(
    served: Served, stub: Any
) -> None:
    job_id = await submit(stub)
    await served.lane.claim()
    job = decode_job(await stub.GetJob(GetJobRequest(job_id=job_id)))
    assert job.usage.cached_tokens is None
    await served.lane.commit(job_id, [5, 6], num_cached=16)
    await served.lane.commit(job_id, [], Finish("length"))
    job = decode_job(await stub.GetJob(GetJobRequest(job_id=job_id)))
    for offset in (0, 2):
        asked = AttachRequest(job_id=job_id, offset=offset)
        last = (await collect(stub.Attach(asked)))[-1]
        assert last.usage == job.usage == Usage(job.usage.prompt_tokens, 2, 16)


async def test_generate_tells_the_job_id_before_there_is_output(served: Served, stub: Any) -> None:
    call = aiter(stub.Generate(message({"prompt": "Once"})))
    first = decode_event(await anext(call))
    claimed = await served.lane.claim()
    assert first == StreamEvent(claimed.spec.job_id, token_ids=())
    await served.lane.commit(first.job_id, served.ids("ab"), Finish("length"))
    events = await collect(call)
    assert text_of(events) == "ab"


async def test_attach_at_every_offset_of_an_ended_job(served: Served, stub: Any) -> None:
    stops = ["small cat", "dog"]
    job_id = await submit(stub, sampling={"stop": stops})
    await served.lane.claim()
    ids = served.ids(TEXT)
    hit = StopFinder(served.card.tokenizer, stops).feed(ids)
    assert hit is not None
    log = ids[: hit.offset + 1]
    for token_id in log[:-1]:
        await served.lane.commit(job_id, [token_id])
    await served.lane.commit(job_id, log[-1:], Finish("stop", text_bytes=hit.text_bytes))
    whole = TEXT.partition("dog")[0]
    for offset in range(len(log) + 1):
        events = await collect(stub.Attach(AttachRequest(job_id=job_id, offset=offset)))
        assert tokens_of(events, start=offset) == log[offset:]
        assert whole.endswith(text_of(events))
        assert events[-1].finish_reason == "stop"
        assert events[-1].usage is not None
        assert events[-1].usage.completion_tokens == len(log)
        if offset == 0:
            assert text_of(events) == whole


async def test_streams_from_any_offset_agree_on_the_text(served: Served, stub: Any) -> None:
    """A stream cut at an offset, and another one from there: no text is lost or repeated."""
    job_id = await submit(stub, sampling={"stop": ["dogs"]})
    await served.lane.claim()
    ids = served.ids(TEXT)
    call = aiter(stub.Attach(AttachRequest(job_id=job_id)))
    pieces = []
    for token_id in ids:
        await served.lane.commit(job_id, [token_id])
        event = decode_event(await anext(call))
        assert list(event.token_ids) == [token_id]
        pieces.append(event.text)
    await served.lane.commit(job_id, [], Finish("length"))
    assert "".join(pieces) + text_of(await collect(call)) == TEXT
    for offset in range(len(ids) + 1):
        events = await collect(stub.Attach(AttachRequest(job_id=job_id, offset=offset)))
        assert "".join(pieces[:offset]) + text_of(events) == TEXT


async def test_an_offset_that_a_running_job_has_not_reached_waits(
    served: Served, stub: Any
) -> None:
    job_id = await submit(stub)
    await served.lane.claim()
    ids = served.ids(TEXT)
    streamed = asyncio.create_task(collect(stub.Attach(AttachRequest(job_id=job_id, offset=5))))
    for token_id in ids[:8]:
        await served.lane.commit(job_id, [token_id])
    await served.lane.commit(job_id, [], Finish("length"))
    assert tokens_of(await streamed, start=5) == ids[5:8]


def test_an_output_that_ends_before_the_offset_is_an_error() -> None:
    spec = JobSpec("job", "model", [1], Sampling(max_tokens=9))
    streamed = OutputStream(spec, 0, 5, None)
    assert streamed.take(OutputLog(0, [1, 2])) is None
    with pytest.raises(InvalidRequest, match="ended with 3 tokens"):
        streamed.take(OutputLog(0, [3], 2, finish=Finish("length")))


@pytest.mark.parametrize(
    ("where", "field", "code"),
    [
        ({"offset": 4}, "offset", grpc.StatusCode.OUT_OF_RANGE),
        ({"offset": 2**63}, "offset", grpc.StatusCode.OUT_OF_RANGE),
        ({"offsets": [0, 4]}, "offsets[1]", grpc.StatusCode.OUT_OF_RANGE),
        ({"offsets": [0]}, "offsets", grpc.StatusCode.INVALID_ARGUMENT),
        ({"offsets": [1, 1], "offset": 1}, "offsets", grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
async def test_an_offset_beyond_the_end_is_refused(
    served: Served, stub: Any, where: dict[str, Any], field: str, code: grpc.StatusCode
) -> None:
    job_id = await submit(stub, sampling={"n": 2})
    await served.lane.claim()
    for index in range(2):
        await served.lane.commit(job_id, [1, 2, 3], Finish("length"), index)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await collect(stub.Attach(AttachRequest(job_id=job_id, **where)))
    assert caught.value.code() == code
    assert (caught.value.details() or "").startswith(f"{field}: ")


@pytest.mark.parametrize("offset", [6, 2**32, 2**63])
async def test_an_offset_that_an_output_cannot_come_to_is_refused(stub: Any, offset: int) -> None:
    job_id = await submit(stub, sampling={"max_tokens": 5})
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await collect(stub.Attach(AttachRequest(job_id=job_id, offset=offset)))
    assert caught.value.code() == grpc.StatusCode.OUT_OF_RANGE
    assert caught.value.details() == f"offset: {offset} is beyond the 5 tokens it may come to"


async def test_n_outputs_share_a_stream(served: Served, stub: Any) -> None:
    job_id = await submit(stub, sampling={"n": 3})
    await served.lane.claim()
    streamed = asyncio.create_task(collect(stub.Attach(AttachRequest(job_id=job_id))))
    texts = ["a small dog", "Ça déjà", "🙂🙃"]
    for round_ in range(max(len(served.ids(text)) for text in texts)):
        for index, text in enumerate(texts):
            ids = served.ids(text)
            if round_ < len(ids):
                finish = Finish("length") if round_ == len(ids) - 1 else None
                await served.lane.commit(job_id, [ids[round_]], finish, index)
    events = await streamed
    for index, text in enumerate(texts):
        assert tokens_of(events, index) == served.ids(text)
        assert text_of(events, index) == text
    assert sum(event.finish is not None for event in events) == 3
    assert [event.usage is not None for event in events].index(True) == len(events) - 1
    assert events[-1].usage is not None
    assert events[-1].usage.completion_tokens == sum(len(served.ids(text)) for text in texts)
    rest = await collect(stub.Attach(AttachRequest(job_id=job_id, offsets=[2, 0, 1])))
    assert [tokens_of(rest, index, start) for index, start in enumerate([2, 0, 1])] == [
        served.ids(text)[start:] for text, start in zip(texts, [2, 0, 1], strict=True)
    ]


async def test_log_probabilities_go_along_with_their_tokens(served: Served, stub: Any) -> None:
    job_id = await submit(stub, sampling={"logprobs": 2})
    await served.lane.claim()
    entries = [TokenLogprobs(-0.5 * i, ((i, -0.5 * i), (9, -4.0))) for i in range(5)]
    await served.lane.commit(job_id, [0, 1, 2], logprobs=entries[:3])
    await served.lane.commit(job_id, [3, 4], Finish("length"), logprobs=entries[3:])
    for offset in (0, 2, 4):
        events = await collect(stub.Attach(AttachRequest(job_id=job_id, offset=offset)))
        assert [entry for event in events for entry in event.logprobs] == entries[offset:]
        assert all(len(event.logprobs) == len(event.token_ids) for event in events)


async def test_text_that_may_begin_a_stop_string_is_held_back(served: Served, stub: Any) -> None:
    job_id = await submit(stub, sampling={"stop": ["the end"]})
    await served.lane.claim()
    call = aiter(stub.Attach(AttachRequest(job_id=job_id)))
    await served.lane.commit(job_id, served.ids("ab the e"))
    assert decode_event(await anext(call)).text == "ab "
    await served.lane.commit(job_id, served.ids("lm"))
    assert decode_event(await anext(call)).text == "the elm"
    await served.lane.commit(job_id, served.ids(" the en"))
    assert decode_event(await anext(call)).text == " "
    finish = Finish("stop", text_bytes=len("ab the elm "))
    await served.lane.commit(job_id, served.ids("d."), finish)
    last = decode_event(await anext(call))
    assert (last.text, last.finish_reason) == ("", "stop")


async def test_a_stop_token_is_in_the_log_and_not_in_the_text(served: Served, stub: Any) -> None:
    ids = served.ids("a dog.")
    job_id = await submit(stub, sampling={"stop_token_ids": ids[-1:]})
    await served.lane.claim()
    await served.lane.commit(job_id, ids, Finish("stop"))
    events = await collect(stub.Attach(AttachRequest(job_id=job_id)))
    assert tokens_of(events) == ids
    assert text_of(events) == "a dog"


async def test_a_long_log_is_sent_in_events_of_bounded_size(served: Served, stub: Any) -> None:
    job_id = await submit(stub, sampling={"stop": ["never"]})
    await served.lane.claim()
    ids = served.ids(TEXT) * 60
    await served.lane.commit(job_id, ids, Finish("length"))
    events = await collect(stub.Attach(AttachRequest(job_id=job_id)))
    assert tokens_of(events) == ids
    assert text_of(events) == TEXT * 60
    assert [len(event.token_ids) for event in events[:-1]] == [MAX_EVENT_TOKENS] * (
        len(ids) // MAX_EVENT_TOKENS
    )


async def test_log_probabilities_are_read_in_small_portions(
    served: Served, stub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "MAX_LOGPROBS_EVENT_TOKENS", 16)
    job_id = await submit(stub, sampling={"logprobs": 0, "stop": ["never"]})
    await served.lane.claim()
    ids = (served.ids(TEXT) * 2)[:48]
    entries = [TokenLogprobs(-float(i)) for i in range(len(ids))]
    await served.lane.commit(job_id, ids, Finish("length"), logprobs=entries)
    whole = await collect(stub.Attach(AttachRequest(job_id=job_id)))
    for offset in (0, 1, 16, 47, 48):
        events = await collect(stub.Attach(AttachRequest(job_id=job_id, offset=offset)))
        assert tokens_of(events, start=offset) == ids[offset:]
        assert [entry for event in events for entry in event.logprobs] == entries[offset:]
        assert max(len(event.token_ids) for event in events) == min(16, 48 - offset)
        assert text_of(whole).endswith(text_of(events))
        assert (events[-1].finish_reason, events[-1].usage is None) == ("length", False)


async def test_a_slow_client_finds_all_it_missed_in_one_read(served: Served, stub: Any) -> None:
    """Nothing is kept for it meanwhile: the next event is made from the log."""
    job_id = await submit(stub)
    await served.lane.claim()
    job = await served.queue.job(job_id)
    assert job is not None
    hub = FollowHub(served.queue, 0.0)
    running = asyncio.create_task(hub.run())
    events = stream.events(hub, job, [0], served.card.tokenizer)
    ids = served.ids(TEXT)
    await served.lane.commit(job_id, ids[:1])
    assert list((await anext(events)).token_ids) == ids[:1]
    for token_id in ids[1:]:
        await served.lane.commit(job_id, [token_id])
    assert list((await anext(events)).token_ids) == ids[1:]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_what_comes_within_a_window_is_one_event(served: Served, stub: Any) -> None:
    """Of several outputs, to clients at several offsets; the texts are the same."""
    served.stream_window_ms = 1e9
    await served.stop()
    await served.start()
    job_id = await submit(stub, sampling={"n": 2, "stop": ["never"]})
    await served.lane.claim()
    ids = served.ids(TEXT)
    whole = asyncio.create_task(collect(stub.Attach(AttachRequest(job_id=job_id))))
    part = asyncio.create_task(collect(stub.Attach(AttachRequest(job_id=job_id, offsets=[3, 5]))))
    for number, token_id in enumerate(ids):
        finish = Finish("length") if number == len(ids) - 1 else None
        for index in range(2):
            await served.lane.commit(job_id, [token_id], finish, index)
    for index, start in enumerate((3, 5)):
        assert tokens_of(await whole, index) == ids
        assert text_of(await whole, index) == TEXT
        assert tokens_of(await part, index, start) == ids[start:]
        assert TEXT.endswith(text_of(await part, index))
        # While an output has not begun, nothing of the job waits; from then on all does.
        assert sum(event.index == index for event in await whole) < len(ids) / 2
