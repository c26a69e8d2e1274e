"""The whole service under load: real processes, Redis and gRPC, beside the card's floor."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from stepserve import AsyncClient
from stepserve.local.serving import Served, serve
from stepserve.protocol.inference import Request
from stepserve_bench.gpu import floors
from stepserve_bench.gpu.checkpoint import write_checkpoint
from stepserve_bench.gpu.child import forked_map, num_cores
from stepserve_bench.gpu.geometry import QWEN3_06B, QWEN3_8B, TINY, Geometry
from stepserve_bench.gpu.loads import NANO_LENGTHS, NANO_REQUESTS, Load, even_load, nano_load
from stepserve_bench.gpu.setup import Row, Setup
from stepserve_bench.measure.figures import percentile
from stepserve_bench.measure.recorded import RecordedStep, read_steps
from stepserve_bench.workloads.offer import warm_up
from stepserve_bench.workloads.outcome import JobTimes

NUM_PLACES, STEP_TOKENS = 256, 8192
STREAM_PROMPT, STREAM_OUTPUT = 128, 512
# Reading a token's event costs a client more than computing it costs the card.
MAX_CLIENTS = 4


def nano(setup: Setup) -> Iterator[Row]:
    """Yield nano-vllm's bench on the 0.6B shape, then one stream alone."""
    geometry = TINY if setup.is_small else QWEN3_06B
    if setup.is_small:
        load = nano_load(12, (4, 24), geometry.vocab_size)
    else:
        count = NANO_REQUESTS // 4 if setup.is_quick else NANO_REQUESTS
        load = nano_load(count, NANO_LENGTHS, geometry.vocab_size)
    yield from _measured(setup, geometry, load)


def eight_billion(setup: Setup) -> Iterator[Row]:
    """Yield 256 x 1024 in / 1024 out on the 8B shape, then one stream alone."""
    if setup.is_small:
        yield {"what": "8B", "skipped": "needs a GPU"}
        return
    output = 128 if setup.is_quick else 1024
    yield from _measured(setup, QWEN3_8B, even_load(NUM_PLACES, 1024, output, QWEN3_8B))


def stream(setup: Setup) -> Iterator[Row]:
    """Yield one stream alone through the service, for each model."""
    for geometry in setup.geometries:
        yield from _measured(setup, geometry, None)


def _measured(setup: Setup, geometry: Geometry, load: Load | None) -> Iterator[Row]:
    started_s = time.monotonic()
    model = write_checkpoint(geometry, setup.scratch)
    record_dir = setup.scratch / f"steps-{geometry.name}-{time.monotonic_ns()}"
    flags: dict[str, Any] = {
        "device": setup.device_name,
        "kernels": setup.kernels_name,
        "max_batch_size": NUM_PLACES if setup.is_gpu else 8,
        "max_step_tokens": STEP_TOKENS if setup.is_gpu else 64,
        **up_flags(setup.up),
    }
    wrote_s = time.monotonic()
    with serve(model, record_dir=record_dir, **flags) as served:
        yield {
            "what": f"{geometry.name} start",
            "checkpoint_s": wrote_s - started_s,
            "ready_s": time.monotonic() - wrote_s,
        }
        _send(served, None, setup)
        if load is not None:
            times = _send(served, load, setup)
            yield _load_row(setup, geometry, load, times, record_dir)
        yield _stream_row(setup, geometry, served)


def up_flags(options: Sequence[str]) -> dict[str, Any]:
    """``--name=value``, ``--name`` and ``--no-name`` as the settings that they give."""
    found: dict[str, Any] = {}
    for option in options:
        name, is_given, value = option.removeprefix("--").partition("=")
        switch = not name.startswith("no-")
        found[name if is_given else name.removeprefix("no-")] = value if is_given else switch
    return {name.replace("-", "_"): value for name, value in found.items()}


def _send(served: Served, load: Load | None, setup: Setup) -> list[JobTimes]:
    """Send the load from several clients at once; with none, a few jobs to warm up."""
    requests = load.requests() if load is not None else []
    clients = min(MAX_CLIENTS, max(1, num_cores() // 3)) if requests else 1
    parts = [requests[number::clients] for number in range(clients)]
    send = partial(_client, served.target)
    return [times for part in forked_map(send, parts, clients, setup.left_s) for times in part]


def _client(target: str, requests: Sequence[Request]) -> list[JobTimes]:
    return asyncio.run(_streams(target, requests))


async def _streams(target: str, requests: Sequence[Request]) -> list[JobTimes]:
    async with AsyncClient(target) as client:
        if not requests:
            await warm_up(client)
        return await asyncio.gather(*(_stream(client, request) for request in requests))


async def _stream(client: AsyncClient, request: Request) -> JobTimes:
    times = JobTimes(time.time())
    async for event in client.generate(request):
        times.token_times_s += [time.time()] * len(event.token_ids)
    return times


def _load_row(
    setup: Setup, geometry: Geometry, load: Load, times: Sequence[JobTimes], record_dir: Path
) -> Row:
    start_s = min(job.submitted_s for job in times)
    end_s = max(job.token_times_s[-1] for job in times if job.token_times_s)
    tokens, wanted = sum(len(job.token_times_s) for job in times), sum(load.outputs)
    seconds = end_s - start_s
    floor_s = floors.run_s(geometry, load.lengths, STEP_TOKENS, setup.ceilings)
    name = f"{geometry.name} {load.name}"
    row = {
        "what": name,
        "seconds": seconds,
        "floor_s": floor_s,
        "share": floors.share(floor_s, seconds),
        "output_tok_per_s": tokens / seconds,
        **_times(times),
        **_steps([s for s in read_steps(record_dir) if start_s <= s.sent_s <= end_s], seconds),
        "figures": {f"{name} s": seconds, f"{name} tok/s": tokens / seconds},
    }
    if tokens != wanted:
        row["fault"] = f"{tokens} tokens came, {wanted} were asked for"
    return row


def _times(times: Sequence[JobTimes]) -> dict[str, float]:
    """Milliseconds to the first token and for each further one."""
    firsts = [(job.token_times_s[0] - job.submitted_s) * 1e3 for job in times]
    further = [
        (job.token_times_s[-1] - job.token_times_s[0]) * 1e3 / (len(job.token_times_s) - 1)
        for job in times
        if len(job.token_times_s) > 1
    ]
    return {
        "ttft_ms_p50": percentile(firsts, 0.5),
        "ttft_ms_p99": percentile(firsts, 0.99),
        "tpot_ms_p50": percentile(further, 0.5),
        "tpot_ms_p99": percentile(further, 0.99),
    }


def _steps(steps: Sequence[RecordedStep], seconds: float) -> dict[str, float]:
    """What the worker reported of its steps; idle is what no step's own time covers."""
    worked = [step for step in steps if step.num_rows]
    if not worked:
        return {"num_steps": 0}
    busy_s = sum(step.duration_us for step in worked) / 1e6
    return {
        "num_steps": len(worked),
        "rows_per_step": statistics.mean(step.num_rows for step in worked),
        "step_ms_p50": percentile([step.duration_us / 1e3 for step in worked], 0.5),
        "idle_share": max(0.0, 1.0 - busy_s / seconds),
    }


def _stream_row(setup: Setup, geometry: Geometry, served: Served) -> Row:
    prompt, output = (STREAM_PROMPT, STREAM_OUTPUT) if setup.is_gpu else (8, 16)
    load = even_load(1, prompt, output, geometry)
    found = _times(_send(served, load, setup))
    context = prompt + output // 2
    floor_ms = floors.step_us(geometry, [(1, context)], setup.ceilings) / 1e3
    name = f"{geometry.name} one stream"
    return {
        "what": name,
        "ms_per_token": found["tpot_ms_p50"],
        "ttft_ms": found["ttft_ms_p50"],
        "floor_ms": floor_ms,
        "share": floors.share(floor_ms, found["tpot_ms_p50"]),
        "figures": {f"{name} ms": found["tpot_ms_p50"]},
    }
