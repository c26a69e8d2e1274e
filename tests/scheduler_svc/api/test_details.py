"""The details of statuses over a real connection, read as grpcio-status reads them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from scheduler_svc.queue import QueueLimits
from scheduler_svc.text.model_card import ModelCard
from stepserve.protocol import inference_rpc as rpc
from stepserve.protocol import inference_wire as wire
from stepserve.protocol.status_details import PUSHBACK_KEY
from tests.scheduler_svc.api.served import serving
from tests.scheduler_svc.api.test_service import submit


async def failure(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_a_wrong_field_is_a_bad_request(stub: Any) -> None:
    request = wire.SubmitRequest(prompt="a", sampling={"n": 99})
    for method in (stub.Submit, lambda request: stub.Generate(request).read()):
        status = rpc_status.from_call(await failure(method(request)))
        assert status is not None
        bad = error_details_pb2.BadRequest()
        assert any(detail.Unpack(bad) for detail in status.details)
        assert [violation.field for violation in bad.field_violations] == ["sampling.n"]


async def test_a_long_text_comes_as_far_as_headers_reach(redis_url: str, card: ModelCard) -> None:
    strict = replace(card, chat_template=None, chat_problem="語" * 5000)
    async with (
        serving(redis_url, strict) as served,
        grpc.aio.insecure_channel(served.address) as channel,
    ):
        stub = rpc.InferenceStub(channel)
        error = await failure(submit(stub, prompt="", messages=[{"role": "user", "content": "a"}]))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert (error.details() or "").startswith("messages: 語語語")
    status = rpc_status.from_call(error)
    assert status is not None
    assert status.message == error.details()


async def test_a_full_queue_pushes_back(redis_url: str, card: ModelCard) -> None:
    limits = QueueLimits(max_queued_jobs=1)
    async with (
        serving(redis_url, card, limits=limits) as served,
        grpc.aio.insecure_channel(served.address) as channel,
    ):
        stub = rpc.InferenceStub(channel)
        await submit(stub)
        error = await failure(submit(stub))
        trailers = dict(error.trailing_metadata() or ())
        assert int(trailers[PUSHBACK_KEY]) == int(trailers[wire.RETRY_AFTER_KEY]) > 0
        retry = error_details_pb2.RetryInfo()
        status = rpc_status.from_call(error)
        assert status is not None
        assert any(detail.Unpack(retry) for detail in status.details)
        assert retry.retry_delay.ToMilliseconds() == int(trailers[PUSHBACK_KEY])
