"""Ten thousand requests as nobody would write them: no failure of ours, and no memory kept."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

import httpx2
import psutil
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis.generation import GenerationMode

from scheduler_svc.http.openapi import document
from scheduler_svc.text.model_card import ModelCard
from stepserve.protocol.step import TokenLogprobs
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
        told = (lambda _id: TokenLogprobs(-1.0, ())) if asks else None
        with contextlib.suppress(AssertionError):  # it has ended meanwhile: a short deadline, say
            await served.say_in(job, "y", logprobs=told)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_no_request_makes_us_fail(redis_url: str, tiny_card: ModelCard) -> None:
    card = replace(tiny_card, name=f"fuzz-{uuid4().hex[:8]}")
    with served_elsewhere(redis_url, card) as served:
        base_url = f"http://{served.address}"
        schema = schemathesis.openapi.from_dict(document())
        operations = [result.ok() for result in schema.get_all_operations()]
        # Hardly anything is wrong with a path: what is sent may be wrong, not where.
        asked = [(each, GenerationMode.POSITIVE) for each in operations]
        asked += [(each, GenerationMode.NEGATIVE) for each in operations if len(each.body)]
        count = NUM_REQUESTS // (2 * len(asked)) + 1
        process, sizes, num_asked = psutil.Process(), [], 0
        while num_asked < NUM_REQUESTS or len(sizes) < 2:
            for operation, mode in asked:
                num_asked += _fuzz(base_url, operation, mode, count)
            gc.collect()
            sizes.append(process.memory_info().rss)
        assert httpx2.get(f"{base_url}/live").status_code == 200
        assert sizes[-1] - sizes[0] < 100 * MIB


def _fuzz(base_url: str, operation: Any, mode: GenerationMode, count: int) -> int:
    """Ask so often, and return how often it was: never where nothing could be asked."""
    num_asked = 0

    @settings(SETTINGS, max_examples=count)
    @given(st.data())
    def ask(data: st.DataObject) -> None:
        nonlocal num_asked
        case = data.draw(operation.as_strategy(generation_mode=mode))
        answer = case.call(base_url=base_url, timeout=60)
        num_asked += 1
        assert answer.status_code != 500, (case.method, case.path, case.body, answer.text)

    with contextlib.suppress(Unsatisfiable):
        ask()
    return num_asked
