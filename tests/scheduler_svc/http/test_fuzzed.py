"""Ten thousand requests as nobody would write them: no failure of ours, and no memory kept."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx2
import psutil
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.generation import GenerationMode

from scheduler_svc.text.model_card import ModelCard
from tests.scheduler_svc.http.served import HttpServed, http_serving

NUM_REQUESTS = 10_000
MIB = 1024 * 1024
SETTINGS = settings(
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.generate,),
)


@dataclass
class Elsewhere:
    """A server whose loop runs in a thread of its own."""

    address: str


@contextmanager
def served_elsewhere(redis_url: str, card: ModelCard) -> Iterator[Elsewhere]:
    """Serve for the time of the block; whatever job comes is answered at once."""
    loop = asyncio.new_event_loop()
    ready, stop = threading.Event(), asyncio.Event()
    found: list[str] = []

    async def serve() -> None:
        async with http_serving(redis_url, card) as served:
            found.append(served.address)
            answering = asyncio.create_task(_answer_all(served))
            ready.set()
            await stop.wait()
            answering.cancel()
            await asyncio.gather(answering, return_exceptions=True)

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    ready.wait(60)
    try:
        yield Elsewhere(found[0])
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


async def _answer_all(served: HttpServed) -> None:
    while True:
        try:
            job = await served.lane.claim()
        except TimeoutError:
            continue
        asks = job.spec.sampling.logprobs >= 0
        await served.queue.fail(job.spec.job_id, "no") if asks else await served.say_in(job, "y")


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_no_request_makes_us_fail(redis_url: str, tiny_card: ModelCard) -> None:
    from dataclasses import replace

    card = replace(tiny_card, name=f"fuzz-{uuid4().hex[:8]}")
    with served_elsewhere(redis_url, card) as served:
        base = f"http://{served.address}"
        document = httpx2.get(f"{base}/openapi.json").json()
        schema = schemathesis.openapi.from_dict(document)
        operations = [result.ok() for result in schema.get_all_operations()]
        each = NUM_REQUESTS // (2 * len(operations)) + 1
        process, sizes = psutil.Process(), []
        with httpx2.Client(base_url=base, timeout=30) as client:
            for _ in range(2):
                for operation in operations:
                    for mode in GenerationMode.ALL if hasattr(GenerationMode, "ALL") else (
                        GenerationMode.POSITIVE,
                        GenerationMode.NEGATIVE,
                    ):
                        _fuzz(client, operation, mode, each // 2 + 1)
                gc.collect()
                sizes.append(process.memory_info().rss)
            assert client.get("/live").status_code == 200
        assert sizes[1] - sizes[0] < 100 * MIB


def _fuzz(client: httpx2.Client, operation: Any, mode: GenerationMode, count: int) -> None:
    @settings(SETTINGS, max_examples=count)
    @given(st.data())
    def ask(data: st.DataObject) -> None:
        case = data.draw(operation.as_strategy(generation_mode=mode))
        sent = case.as_transport_kwargs(base_url=str(client.base_url))
        with client.stream(
            sent["method"], sent["url"], params=sent.get("params"), json=sent.get("json"),
            content=sent.get("data"), files=sent.get("files"),
        ) as answer:  # fmt: skip
            text = answer.read()
        assert answer.status_code not in range(500, 600) or b"job_failed" in text, (sent, text)

    ask()
