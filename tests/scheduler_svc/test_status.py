"""What a running scheduler tells of itself over HTTP, and whether it is true when Redis hangs."""

from __future__ import annotations

import asyncio
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from scheduler_svc.queue import EmbeddedRedis
from scheduler_svc.server import scheduler
from scheduler_svc.settings import SchedulerSettings
from stepserve import AsyncClient
from stepserve_bench.chaos.stopping import stopped_process
from tests.scheduler_svc.text.checkpoints import write_checkpoint

WAIT_S = 20.0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("status") / "tiny")


async def get(address: str, path: str) -> tuple[int, str]:
    def ask() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://{address}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    return await asyncio.to_thread(ask)


async def status_of(address: str, path: str) -> int:
    return (await get(address, path))[0]


async def until(address: str, path: str, is_so: Callable[[int], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not is_so(await status_of(address, path)):
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("role", ["all", pytest.param("lane", marks=pytest.mark.long)])
async def test_ready_while_redis_serves_and_alive_all_the_same(
    model: Path, tmp_path: Path, role: str
) -> None:
    with EmbeddedRedis.start(tmp_path) as redis:
        settings = SchedulerSettings(
            model=str(model), redis_url=redis.url, port=0, roles=role, metrics_port=0
        )
        async with scheduler(settings) as running:
            address = running.status.address
            assert f" metrics={address} model=" in running.ready_line
            await until(address, "/readyz", lambda status: status == 200)
            assert redis.pid is not None
            with stopped_process(redis.pid):
                begun_s = time.monotonic()
                await until(address, "/readyz", lambda status: status == 503)
                assert time.monotonic() - begun_s < 3.5, "true within 3 s, and a look"
                assert "Redis" in (await get(address, "/readyz"))[1]
                assert await status_of(address, "/livez") == 200
            await until(address, "/readyz", lambda status: status == 200)


async def test_metrics_of_a_model_and_its_queue(model: Path, redis_url: str) -> None:
    """Under vLLM's names what an endpoint picker (Gateway API inference extension) asks for."""
    settings = SchedulerSettings(
        model=str(model),
        model_name="m/1",
        redis_url=redis_url,
        port=0,
        metrics_port=0,
        metrics_prefix="vllm",
    )
    async with scheduler(settings) as running, AsyncClient(running.address) as client:
        await client.submit("a", tenant="acme")
        async with asyncio.timeout(WAIT_S):
            while (told := await _told(running.status.address)).get("vllm:queue_depth") != 1:
                await asyncio.sleep(0.05)
    assert told["vllm:num_requests_waiting"] == 1
    assert told["vllm:num_requests_running"] == 0
    assert told["vllm:kv_cache_usage_perc"] == 0


@pytest.mark.parametrize("role", ["api", "http"])
async def test_an_endpoint_picker_finds_all_that_it_asks_for_at_the_http_port(
    model: Path, redis_url: str, role: str
) -> None:
    """By the model server protocol of the Gateway API inference extension, under vLLM's names.

    Also of a process that drives no worker: then of all workers, as their leases have it.
    """
    settings = SchedulerSettings(
        model=str(model),
        model_name=f"m/{role}",
        redis_url=redis_url,
        roles=role,
        port=0,
        http_port=0,
        metrics_prefix="vllm",
    )
    async with scheduler(settings) as running:
        lease = await running.queue.acquire(
            "w:1", "me", 60_000, {"num_blocks": "200", "block_size": "16"}
        )
        assert lease is not None
        await running.queue.renew(lease, 1000, 50)
        async with asyncio.timeout(WAIT_S):
            while (await _samples(running.http_address)).get("vllm:workers") != ({}, 1):
                await asyncio.sleep(0.05)
        told = await _samples(running.http_address)
    assert told["vllm:num_requests_waiting"] == ({}, 0)  # TotalQueuedRequests
    assert told["vllm:num_requests_running"] == ({}, 0)  # TotalRunningRequests
    assert told["vllm:kv_cache_usage_perc"] == ({}, 0.25)  # KVCacheUtilization
    # BlockSize and NumGPUBlocks.
    assert told["vllm:cache_config_info"] == ({"block_size": "16", "num_gpu_blocks": "200"}, 1)
    labels, at_s = told["vllm:lora_requests_info"]
    assert labels == {"max_lora": "0", "running_lora_adapters": "", "waiting_lora_adapters": ""}
    assert abs(at_s - time.time()) < 60


async def _samples(address: str) -> dict[str, tuple[dict[str, str], float]]:
    """The samples by name, without the model's, which all have."""
    _, text = await get(address, "/metrics")
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = {key: value for key, value in sample.labels.items() if key != "model_name"}
            found[sample.name] = (labels, sample.value)
    return found


async def _told(address: str) -> dict[str, float]:
    status, text = await get(address, "/metrics")
    assert status == 200
    samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
    ours = [sample for sample in samples if sample.name.startswith("vllm:")]
    assert {sample.labels["model_name"] for sample in ours} == {"m/1"}
    return {sample.name: sample.value for sample in ours}
