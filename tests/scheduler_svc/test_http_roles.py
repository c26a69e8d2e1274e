"""HTTP beside gRPC, and in a process of its own: what a scheduler serves by its role."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from scheduler_svc.server import Running, scheduler
from scheduler_svc.settings import SchedulerSettings
from stepserve import AsyncClient
from stepserve.commands.up import Shared, Up
from stepserve.local.ready import ready_fields
from tests.scheduler_svc.text.checkpoints import write_checkpoint


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("roles") / "tiny")


@asynccontextmanager
async def running(model: Path, redis_url: str, name: str, **more: Any) -> AsyncIterator[Running]:
    settings = SchedulerSettings(model=str(model), model_name=name, redis_url=redis_url, **more)
    async with scheduler(settings) as found:
        yield found


async def test_http_alone_and_beside_grpc_answer_for_the_same_jobs(
    model: Path, redis_url: str
) -> None:
    name = f"roles-{uuid4().hex[:8]}"
    async with (
        running(model, redis_url, name, roles="api", port=0, http_port=0) as both,
        running(model, redis_url, name, roles="http", http_port=0) as alone,
        running(model, redis_url, name, roles="lane") as lane,
        httpx2.AsyncClient() as client,
    ):
        assert (alone.address, lane.address, lane.http_address) == ("", "", "")
        assert alone.ready_line == f"ready http={alone.http_address} model={name}"
        fields = {"grpc": both.address, "http": both.http_address, "model": name}
        assert ready_fields(both.ready_line + "\n") == fields
        made = await client.post(
            f"http://{alone.http_address}/v1/responses", json={"input": "Hi", "background": True}
        )
        told = await client.get(f"http://{both.http_address}/v1/responses/{made.json()['id']}")
        assert told.json()["status"] == "queued"
        async with AsyncClient(both.address) as grpc_client:
            unique = made.json()["id"].removeprefix("resp_")
            await grpc_client.cancel(f"{name}~{unique}")
        told = await client.get(f"http://{alone.http_address}/v1/responses/{made.json()['id']}")
        assert told.json()["status"] == "cancelled"

        async def is_up(path: str) -> bool:
            return (await client.get(f"http://{alone.http_address}{path}")).status_code == 200

        async with asyncio.timeout(10):
            while not await is_up("/health"):
                await asyncio.sleep(0.01)
        assert not await is_up("/ready")  # no worker is there


async def test_http_is_served_only_where_it_is_asked_for(model: Path, redis_url: str) -> None:
    name = f"roles-{uuid4().hex[:8]}"
    async with running(model, redis_url, name, roles="api", port=0) as found:
        assert found.http_address == ""
        assert found.ready_line == f"ready grpc={found.address} model={name}"


async def test_an_ipv6_address_is_told_as_urls_have_it(model: Path, redis_url: str) -> None:
    name = f"roles-{uuid4().hex[:8]}"
    async with (
        running(model, redis_url, name, roles="http", host="::1", http_port=0) as found,
        httpx2.AsyncClient(base_url=f"http://{found.http_address}") as client,
    ):
        assert (await client.get("/live")).status_code == 200


@pytest.mark.long
async def test_a_process_of_http_alone_serves_until_it_is_told_to_stop(
    model: Path, redis_url: str
) -> None:
    command = ["scheduler_svc", f"--model={model}", "--roles=http", "--http-port=0"]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        *command,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "STEPSERVE_REDIS_URL": redis_url},
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(60):
            fields = ready_fields((await process.stdout.readline()).decode())
        assert fields.keys() == {"http", "model"}
        async with httpx2.AsyncClient(base_url=f"http://{fields['http']}") as client:
            assert (await client.get("/v1/models")).json()["data"][0]["id"] == fields["model"]
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(30):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ({"port": 0}, []),
        ({"port": 50061}, [50061]),
        ({"port": 50061, "schedulers": 2, "http_port": 8100}, [50061, 50062, 8100, 8101]),
        ({"port": 0, "http_port": 8100, "http": False}, []),
    ],
)
def test_up_looks_only_at_ports_that_were_asked_for(given: Any, asked: list[int]) -> None:
    up = Up.model_validate({"model": "m", **given})
    assert up._asked_ports() == asked
    flags = up._scheduler("all", 0, Shared("redis://x", "token"), []).arguments
    assert any(flag.startswith("--http-port=") for flag in flags) is given.get("http", True)
