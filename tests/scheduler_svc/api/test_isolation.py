"""No method of gRPC tells a tenant of another's jobs, nor anybody anything without a key."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from scheduler_svc.text.model_card import ModelCard
from stepserve.client.errors import from_status
from stepserve.protocol import inference_rpc as rpc
from stepserve.protocol import inference_wire as wire
from stepserve.protocol.errors import Exhausted, Forbidden, NotFound, Unauthenticated
from tests.scheduler_svc.access.tenants import Tenants, two_tenants
from tests.scheduler_svc.api.served import Served, message, serving

SERVICE = wire.pb.DESCRIPTOR.services_by_name["Inference"]
METHODS = [method.name for method in SERVICE.methods]


def shown(key: str) -> dict[str, Any]:
    return {"metadata": (("authorization", f"Bearer {key}"),)}


async def outcome(call: Any) -> Any:
    """The answer, all of a stream's, or the error that the client would raise."""
    try:
        if isinstance(call, grpc.aio.UnaryStreamCall):
            return [event async for event in call]
        return await call
    except grpc.RpcError as error:
        return from_status(error)


@dataclass
class Place:
    """What the rules have: the stub, both keys, and a job of tenant a's."""

    stub: Any
    served: Served
    tenants: Tenants
    job_id: str

    async def as_b(self, method: str, request: Any) -> Any:
        return await outcome(getattr(self.stub, method)(request, **shown(self.tenants.b)))


@pytest.fixture
async def place(redis_url: str, card: ModelCard, tmp_path: Path) -> AsyncIterator[Place]:
    tenants = two_tenants(tmp_path)
    async with (
        serving(redis_url, card, keys_file=str(tenants.path)) as served,
        grpc.aio.insecure_channel(served.address) as channel,
    ):
        stub = rpc.InferenceStub(channel)
        asked = message({"prompt": "hello", "idempotency_key": "same"})
        job = await stub.Submit(asked, **shown(tenants.a))
        yield Place(stub, served, tenants, job.job_id)


async def _is_unknown(place: Place, method: str, make: Callable[[str], Any]) -> None:
    """Another's job is told of as one that is not there."""
    absent = place.job_id[:-1] + ("0" if place.job_id[-1] != "0" else "1")
    found = [await place.as_b(method, make(job_id)) for job_id in (place.job_id, absent)]
    assert [type(error) for error in found] == [NotFound, NotFound]
    assert str(found[0]) == str(found[1]).replace(absent, place.job_id)


async def _attach(place: Place) -> None:
    await _is_unknown(place, "Attach", lambda job_id: wire.AttachRequest(job_id=job_id))


async def _get(place: Place) -> None:
    await _is_unknown(place, "GetJob", lambda job_id: wire.GetJobRequest(job_id=job_id))


async def _cancel(place: Place) -> None:
    await _is_unknown(place, "CancelJob", lambda job_id: wire.CancelJobRequest(job_id=job_id))
    assert await _state(place) == "queued"


async def _delete(place: Place) -> None:
    await _is_unknown(place, "DeleteJob", lambda job_id: wire.DeleteJobRequest(job_id=job_id))
    assert await _state(place) == "queued"


async def _state(place: Place) -> str:
    found = await place.served.queue.job(place.job_id)
    assert found is not None
    return found.state


async def _list(place: Place) -> None:
    listed = (await place.as_b("ListJobs", wire.ListJobsRequest())).jobs
    assert {job.tenant for job in listed} <= {"b"}
    told = await place.as_b("ListJobs", wire.ListJobsRequest(tenant="a"))
    assert isinstance(told, Forbidden)
    own = await place.stub.ListJobs(wire.ListJobsRequest(), **shown(place.tenants.a))
    assert [job.job_id for job in own.jobs] == [place.job_id]


async def _submit(place: Place) -> None:
    told = await place.as_b("Submit", message({"prompt": "hello", "tenant": "a"}))
    assert isinstance(told, Forbidden)
    assert told.field == "tenant"
    asked = message({"prompt": "hello", "idempotency_key": "same"})
    answer = await place.as_b("Submit", asked)
    assert (answer.job_id != place.job_id, answer.existed) == (True, False)
    found = await place.served.queue.job(answer.job_id)
    assert found is not None
    assert found.spec.tenant == "b"


async def _generate(place: Place) -> None:
    told = await place.as_b("Generate", message({"prompt": "hello", "tenant": "a"}))
    assert isinstance(told, Forbidden)
    asked = message({"prompt": "hello", "idempotency_key": "same"})
    call = place.stub.Generate(asked, **shown(place.tenants.b))
    first = await call.read()
    call.cancel()
    assert first.job_id != place.job_id


async def _models(place: Place) -> None:
    """What is served is everybody's to know; how much there is to do, an operator's."""
    asked = wire.ListModelsRequest()
    [model] = (await place.as_b("ListModels", asked)).models
    assert (model.name, model.num_workers, model.num_queued_jobs) == (
        place.served.card.name, 0, 0,
    )  # fmt: skip
    assert model.max_context
    [model] = (await place.stub.ListModels(asked, **shown(place.tenants.operator))).models
    assert model.num_workers == 1
    assert model.num_queued_jobs == len(await place.served.queue.jobs(state="queued")) > 0


async def _workers(place: Place) -> None:
    """They are of everybody: an operator's to see."""
    assert isinstance(await place.as_b("ListWorkers", wire.ListWorkersRequest()), Forbidden)
    asked = wire.ListWorkersRequest()
    found = await place.stub.ListWorkers(asked, **shown(place.tenants.operator))
    assert isinstance(found, wire.ListWorkersResponse)


RULES: dict[str, Callable[[Place], Awaitable[None]]] = {
    "Submit": _submit,
    "Generate": _generate,
    "Attach": _attach,
    "GetJob": _get,
    "CancelJob": _cancel,
    "DeleteJob": _delete,
    "ListJobs": _list,
    "ListModels": _models,
    "ListWorkers": _workers,
}


def test_every_method_has_a_rule() -> None:
    """A method without one fails here: say in RULES how it keeps tenants apart."""
    assert sorted(RULES) == sorted(METHODS)


async def test_a_tenant_sees_nothing_of_another(place: Place) -> None:
    for rule in RULES.values():
        await rule(place)


async def test_nobody_is_let_in_without_a_key(place: Place) -> None:
    wrong = ({}, shown("sk-ss-none"), {"metadata": (("authorization", place.tenants.a),)})
    for method in METHODS:
        request = SERVICE.methods_by_name[method].input_type._concrete_class()
        for metadata in wrong:
            error = await outcome(getattr(place.stub, method)(request, **metadata))
            assert isinstance(error, Unauthenticated), method
            assert place.tenants.a not in str(error)


async def test_an_operator_sees_all_and_may_name_whom_it_likes(place: Place) -> None:
    as_operator = shown(place.tenants.operator)
    found = await place.stub.ListJobs(wire.ListJobsRequest(), **as_operator)
    assert [job.tenant for job in found.jobs] == ["a"]
    answer = await place.stub.Submit(message({"prompt": "x", "tenant": "b"}), **as_operator)
    found = await place.stub.GetJob(wire.GetJobRequest(job_id=answer.job_id), **as_operator)
    assert found.tenant == "b"


async def test_probes_need_no_key(place: Place) -> None:
    async with grpc.aio.insecure_channel(place.served.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        answer = await health.Check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_key_that_is_removed_lets_nobody_in(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler_svc.access.keyring.LOOK_INTERVAL_S", 0.0)
    place.tenants.path.write_text('{"keys": []}')
    assert isinstance(await place.as_b("ListModels", wire.ListModelsRequest()), Unauthenticated)


async def test_bounds_are_told_with_when_to_come_back(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler_svc.access.keyring.LOOK_INTERVAL_S", 0.0)
    key = place.tenants.another("b", requests_per_minute=2)
    asked = message({"prompt": "hello"})
    found = [await outcome(place.stub.Submit(asked, **shown(key))) for _ in range(3)]
    assert isinstance(found[2], Exhausted)
    assert 20_000 < found[2].retry_after_ms <= 30_000
    assert "2 requests a minute" in str(found[2])
