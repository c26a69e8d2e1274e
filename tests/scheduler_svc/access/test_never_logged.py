"""No key is in any log, answer or record, whatever is wrong with a request."""

from __future__ import annotations

import logging
from pathlib import Path

import grpc
import pytest
from redis import Redis

from scheduler_svc.text.model_card import ModelCard
from stepserve.protocol import inference_rpc as rpc
from stepserve.protocol import inference_wire as wire
from tests.scheduler_svc.access.tenants import two_tenants
from tests.scheduler_svc.api.served import message, serving
from tests.scheduler_svc.frontend.conftest import card, checkpoint
from tests.scheduler_svc.http.served import http_serving

__all__ = ["card", "checkpoint"]

UNKNOWN = "sk-ss-012345678901-not-a-key-of-ours-but-a-secret"


async def _over_grpc(redis_url: str, card: ModelCard, file: Path, keys: list[str]) -> str:
    said = ""
    async with (
        serving(redis_url, card, keys_file=str(file)) as served,
        grpc.aio.insecure_channel(served.address) as channel,
    ):
        stub = rpc.InferenceStub(channel)
        for key in keys:
            metadata = (("authorization", f"Bearer {key}"),)
            for request in (message({"prompt": "hi"}), message({"prompt": "hi", "tenant": "x"})):
                call = stub.Submit(request, metadata=metadata)
                said += f"{await call.details()} {await call.trailing_metadata()}"
            listed = stub.ListJobs(wire.ListJobsRequest(), metadata=metadata)
            said += str(await listed.details())
        assert served.api is not None
        served.api.front_ends.models = None  # type: ignore[assignment,method-assign]
        call = stub.ListModels(wire.ListModelsRequest(), metadata=metadata)
        said += str(await call.details())
    return said


async def _over_http(redis_url: str, card: ModelCard, file: Path, keys: list[str]) -> str:
    said = ""
    async with http_serving(redis_url, card, keys_file=str(file)) as served:
        for key in keys:
            shown = {"authorization": f"Bearer {key}"}
            for path, content in (("/v1/responses", '{"input": "hi", "background": true}'),
                                  ("/v1/responses", "{"), ("/v1/nowhere", "{}")):  # fmt: skip
                answer = await served.http.post(path, content=content, headers=shown)
                said += answer.text + str(answer.headers)
        assert served.front_end is not None
        served.front_end.models = None  # type: ignore[assignment,method-assign]
        said += (await served.http.get("/v1/models", headers=shown)).text
        spoilt = {**shown, "x-tenant": "x" * 200}
        said += (await served.http.get("/v1/models", headers=spoilt)).text
    return said


async def test_keys_are_in_no_log_answer_or_record(
    redis_url: str, card: ModelCard, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tenants = two_tenants(tmp_path)
    keys = [UNKNOWN, tenants.a, tenants.operator]
    with caplog.at_level(logging.DEBUG):
        said = await _over_grpc(redis_url, card, tenants.path, keys)
        said += await _over_http(redis_url, card, tenants.path, keys)
    assert "failed with TypeError" in caplog.text, "what goes wrong was logged"
    with Redis.from_url(redis_url) as redis:
        for name in redis.scan_iter("*"):
            said += repr(name) + repr(redis.dump(name))
    for key in keys:
        secret = key.split("-", 3)[3]  # which may have a "-" of its own
        assert secret not in caplog.text
        assert secret not in said
    assert "internal error" in said
