"""A worker answers who shows the fleet's certificate or token, and nobody else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from scheduler_svc.lane.step_deadline import StepDeadline
from scheduler_svc.lane.worker_stream import WorkerGone, WorkerStream
from stepserve.protocol import step_wire
from stepserve.protocol.step import Hello
from stepserve.tls.fleet import FleetCaller
from stepserve.tls.fleet_settings import FleetSettings
from tests.certificates import Authority
from tests.worker_svc.conftest import Assemble
from worker_svc.server import WorkerServer
from worker_svc.settings import WorkerSettings

METHODS = [m.name for m in step_wire.pb.DESCRIPTOR.services_by_name["Worker"].methods]
TOKEN, OTHER = "a-token-of-the-fleet", "a-token-of-another-fleet"


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(TOKEN)
    return path


@asynccontextmanager
async def serving(assembled: Assemble, **fleet: Any) -> AsyncIterator[WorkerServer]:
    settings = WorkerSettings(model="unused", port=0, health_port=0, **fleet)
    server = WorkerServer(settings, assembled())
    server.address = await server.start()  # type: ignore[attr-defined]
    try:
        yield server
    finally:
        await server.stop()


async def is_known(server: Any, **fleet: Any) -> bool:
    """Whether a lane with these files can ask the worker, and drive it."""
    caller = FleetCaller(FleetSettings(**fleet))
    stream = WorkerStream(server.address, StepDeadline(1.0, 60.0), caller)
    try:
        await stream.describe()
        await stream.open(Hello(1, "test"))
    except WorkerGone:
        return False
    finally:
        await stream.close()
    return True


@pytest.mark.parametrize("method", METHODS)
async def test_no_method_answers_who_shows_no_token(
    method: str, assembled: Assemble, token_file: Path
) -> None:
    async with (
        serving(assembled, fleet_token_file=str(token_file)) as server,
        grpc.aio.insecure_channel(server.address) as channel,  # type: ignore[attr-defined]
    ):
        call = getattr(step_wire.WorkerStub(channel), method)  # type: ignore[no-untyped-call]
        for shown in ((), (("authorization", f"Bearer {OTHER}"),), (("authorization", TOKEN),)):
            asked = call(metadata=shown) if method == "Steps" else call(_describe(), metadata=shown)
            assert await asked.code() is grpc.StatusCode.UNAUTHENTICATED
            assert TOKEN not in await asked.details()


def _describe() -> Any:
    return step_wire.describe_request()


async def test_a_lane_that_has_the_token_drives_it(assembled: Assemble, token_file: Path) -> None:
    async with serving(assembled, fleet_token_file=str(token_file)) as server:
        assert await is_known(server, fleet_token_file=str(token_file))
        assert not await is_known(server)
        lane_file = token_file.with_name("lane")
        lane_file.write_text(OTHER)
        assert not await is_known(server, fleet_token_file=str(lane_file))
        _change(token_file)
        assert await is_known(server, fleet_token_file=str(lane_file))


def _change(path: Path) -> None:
    path.write_text(OTHER)


async def test_probes_show_nothing(assembled: Assemble, token_file: Path) -> None:
    """Over the worker's own port, and over the one that has its health alone."""
    async with serving(assembled, fleet_token_file=str(token_file)) as server:
        for address in (server.address, server.health_address):  # type: ignore[attr-defined]
            async with grpc.aio.insecure_channel(address) as channel:
                stub = health_pb2_grpc.HealthStub(channel)
                answer = await stub.Check(health_pb2.HealthCheckRequest())
                assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_both_show_a_certificate_of_the_fleet(assembled: Assemble, tmp_path: Path) -> None:
    ours, other = Authority(tmp_path / "ours"), Authority(tmp_path / "other")
    at_worker = ours.identity("stepserve-worker")
    lane = ours.identity("scheduler.example")
    files = dict(zip(("fleet_cert", "fleet_key", "fleet_ca"), at_worker.paths, strict=True))
    pair = {"fleet_cert": lane.certificate, "fleet_key": lane.key}
    stranger = other.identity("scheduler.example")
    async with serving(assembled, **files) as server:
        assert await is_known(server, fleet_ca=ours.path, **pair)
        # It is known by its certificate's name, whatever its address is.
        assert not await is_known(server, fleet_ca=ours.path, fleet_name="another", **pair)
        assert not await is_known(server, fleet_ca=other.path, **pair)
        assert not await is_known(server, fleet_ca=ours.path)
        pair = {"fleet_cert": stranger.certificate, "fleet_key": stranger.key}
        assert not await is_known(server, fleet_ca=ours.path, **pair)
        assert not await is_known(server)
