"""Streams of a model whose decoder strips a text's first space: the output's is not the first."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from scheduler_svc.lane.stop_watch import StopWatch
from scheduler_svc.text.model_card import ModelCard
from stepserve.protocol import inference_rpc as rpc
from stepserve.protocol.inference_wire import AttachRequest
from stepserve.protocol.job import Finish
from stepserve.protocol.step import Admission, StepCommand, StepReport
from tests.scheduler_svc.api.served import Served, serving
from tests.scheduler_svc.api.test_streams import collect, submit, text_of
from tests.scheduler_svc.text.checkpoints import write_checkpoint

CHAT = {"prompt": "", "messages": [{"role": "user", "content": "a b"}]}


@pytest.fixture
async def served(redis_url: str, tmp_path: Path) -> AsyncIterator[Served]:
    card = ModelCard.load(write_checkpoint(tmp_path / "llama", "llama_bpe"))
    card = replace(card, name=f"llama-{uuid.uuid4().hex[:8]}")
    async with serving(redis_url, card, grace_s=0.2) as served:
        yield served


@pytest.fixture
async def stub(served: Served) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(served.address) as channel:
        yield rpc.InferenceStub(channel)


def added(served: Served, prompt: Any, output: list[int]) -> str:
    tokenizer = served.card.tokenizer
    assert tokenizer is not None
    return tokenizer.decode([*prompt, *output]).removeprefix(tokenizer.decode(prompt))


@pytest.mark.parametrize("payload", [{"prompt": "a b"}, CHAT], ids=["prompt", "chat"])
async def test_the_first_space_is_streamed_from_every_offset(
    served: Served, stub: Any, payload: dict[str, Any]
) -> None:
    job_id = await submit(stub, **payload)
    prompt = (await served.lane.claim()).spec.prompt_token_ids
    output = served.ids("a a é b")
    assert added(served, prompt, output) == " a a é b"
    for token_id in output:
        await served.lane.commit(job_id, [token_id])
    await served.lane.commit(job_id, [], Finish("length"))
    for offset in range(len(output) + 1):
        events = await collect(stub.Attach(AttachRequest(job_id=job_id, offset=offset)))
        assert added(served, prompt, output[:offset]) + text_of(events) == " a a é b"


async def test_a_lane_finds_a_stop_string_that_begins_with_that_space(
    served: Served, stub: Any
) -> None:
    """The lane's cut and the stream's text are of one text."""
    job_id = await submit(stub, prompt="b a b", sampling={"stop": [" a"]})
    spec = (await served.lane.claim()).spec
    word, *_ = served.ids("a")
    for prior in (0, 2):  # of the output, when a lane takes the job
        output = [*served.ids("b")[-1:] * prior, word]
        watch = StopWatch(served.card.tokenizer, {job_id: spec})
        tokens = [*spec.prompt_token_ids, *output[:prior]]
        sampling: Any = None
        admission = Admission(7, job_id, 0, tokens, len(spec.prompt_token_ids), sampling)
        watch.sent(StepCommand(1, "one", 1, admissions=[admission]))
        report = StepReport("one", 1, 1, [7], [prior], [word])
        hit = watch.annotate(report).stops[7]
        assert (hit.offset, hit.text_bytes) == (prior, len("b" * prior))
    await served.lane.commit(job_id, [word], Finish("stop", text_bytes=0))
    events = await collect(stub.Attach(AttachRequest(job_id=job_id)))
    assert text_of(events) == ""
