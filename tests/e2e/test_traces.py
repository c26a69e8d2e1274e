"""A job's trace, from its client to its last token, as a real collector gets it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from uuid import uuid4

import httpx2
import pytest

from scheduler_svc.server import scheduler
from scheduler_svc.settings import SchedulerSettings
from stepserve import AsyncClient
from stepserve.protocol.inference import Request
from stepserve.protocol.sampling import SamplingParams
from tests.checkpoints import VARIANTS, add_tokenizer, make_checkpoint
from tests.e2e.stack import stack, worker
from tests.scheduler_svc.spans.collector import Collector, by_grpc, by_http

NUM_TOKENS = 12
WAIT_S = 60.0
SPANS = {"submit", "queued", "prefill", "decode", "commit", "stream"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = make_checkpoint(tmp_path_factory.mktemp("traces") / "tiny", "llama")
    return add_tokenizer(directory, VARIANTS["llama"]().vocab_size)


@pytest.fixture(autouse=True)
def _sent_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")


def context() -> tuple[str, str, str]:
    """A trace that a client began: its id, its span's id, and its header."""
    trace_id, span_id = uuid4().hex, uuid4().hex[:16]
    return trace_id, span_id, f"00-{trace_id}-{span_id}-01"


async def whole(collector: Collector, trace_id: str) -> dict[str, list[object]]:
    async with asyncio.timeout(WAIT_S):
        while not collector.of(trace_id).keys() >= SPANS:
            await asyncio.sleep(0.02)
    return dict(collector.of(trace_id))


def check(collector: Collector, trace_id: str, client_span_id: str) -> None:
    spans = collector.of(trace_id)
    [submit] = spans["submit"]
    assert submit.parent_id == client_span_id
    for name in SPANS - {"submit"}:
        [span] = spans[name]
        assert span.parent_id == submit.span_id, name
        assert span.told["stepserve.job.id"] == submit.told["stepserve.job.id"]
        assert span.told["stepserve.tenant"] == "acme"
    [decode], [stream] = spans["decode"], spans["stream"]
    assert decode.told["gen_ai.usage.output_tokens"] == NUM_TOKENS
    assert decode.told["gen_ai.response.finish_reasons"] == ["length"]
    assert decode.told["stepserve.worker"].startswith("127.0.0.1:")
    assert stream.told["stepserve.stream.tokens"] == NUM_TOKENS
    assert stream.told["stepserve.stream.is_whole"] is True


async def test_over_grpc_and_over_http(checkpoint: Path, redis_url: str) -> None:
    sampling = SamplingParams(temperature=0.0, max_tokens=NUM_TOKENS, ignore_eos=True)
    body = {"prompt": [5, 9, 14], "max_tokens": NUM_TOKENS, "ignore_eos": True}
    with by_grpc() as collector:
        endpoint = collector.endpoint
        async with (
            stack(checkpoint, redis_url, http_port=0, otlp_endpoint=endpoint) as served,
            AsyncClient(served.target) as client,
            httpx2.AsyncClient(base_url=f"http://{served.http}", timeout=WAIT_S) as http,
        ):
            trace_id, span_id, header = context()
            request = Request(prompt_token_ids=[5, 9, 14], sampling=sampling, tenant="acme")
            traced = client.with_options(metadata=[("traceparent", header)])
            async for _ in traced.generate(request):
                pass
            await whole(collector, trace_id)
            check(collector, trace_id, span_id)
            trace_id, span_id, header = context()
            headers = {"traceparent": header, "tracestate": "v=1", "x-tenant": "acme"}
            answer = await http.post("/v1/completions", json=body, headers=headers)
            assert answer.status_code == 200
            await whole(collector, trace_id)
            check(collector, trace_id, span_id)
            # Without a context of its client a job is a trace of its own.
            job_id = await client.submit(request)
            async with asyncio.timeout(WAIT_S):
                while not (own := _named(collector, "submit", job_id)):
                    await asyncio.sleep(0.02)
            assert own[0].parent_id == ""


@pytest.mark.long
async def test_a_trace_goes_on_with_whoever_takes_the_worker_over(
    checkpoint: Path, redis_url: str
) -> None:
    name = f"traced-{uuid4().hex[:8]}"
    trace_id, _, header = context()
    with by_http() as collector:
        async with worker(checkpoint, name) as address:
            settings = SchedulerSettings(
                model=str(checkpoint),
                model_name=name,
                port=0,
                workers=address,
                redis_url=redis_url,
                otlp_endpoint=f"{collector.endpoint}/v1/traces",
                lease_ttl_s=0.5,
            )
            sampling = SamplingParams(temperature=0.0, max_tokens=400, ignore_eos=True)
            async with scheduler(settings) as first, AsyncClient(first.address) as client:
                traced = client.with_options(metadata=[("traceparent", header)])
                request = Request(prompt_token_ids=[5, 9], sampling=sampling)
                job_id = await traced.submit(request)
                async with asyncio.timeout(WAIT_S):
                    while not (await client.get(job_id)).usage.completion_tokens:
                        await asyncio.sleep(0.01)
            async with scheduler(settings) as second, AsyncClient(second.address) as client:
                await client.result(job_id, timeout=WAIT_S)
                await whole(collector, trace_id)
    decodes = collector.of(trace_id)["decode"]
    assert [span.told.get("stepserve.left", False) for span in decodes] == [True, False]
    assert {span.of_service["service.name"] for span in decodes} == {"stepserve"}
    assert decodes[-1].told["gen_ai.usage.output_tokens"] == 400


def _named(collector: Collector, name: str, job_id: str) -> list[object]:
    return [
        span
        for span in collector.spans
        if span.name == name and span.told.get("stepserve.job.id") == job_id
    ]
