"""Steps of the executor alone: eager and as CUDA graphs, with and without a draw, beside floors."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._C._autograd import DeviceType

from stepserve_bench.gpu import floors
from stepserve_bench.gpu.driven import Driven, Model, Rows, empty_cache, limits_for
from stepserve_bench.gpu.geometry import TINY, Geometry
from stepserve_bench.gpu.setup import Row, Setup
from stepserve_bench.gpu.warming import Work, compile_ahead
from worker_svc.core.limits import Limits
from worker_svc.step.graphs import Bucket

# The most first: what one graph needs of memory, the others find there.
NUM_ROWS = (256, 64, 16, 1)
CONTEXTS = {"0.6B": 600, "8B": 1024, "tiny": 24}
# The first steps of a batch are not timed, and the last of them are profiled.
NUM_SETTLING, NUM_TIMED, NUM_PROFILED = 6, 30, 6
MORE_TOKENS = 64
PREFILL = ((1024, 1024),) * 8
MIXED = ((1, 1024),) * 63 + ((1985, 2000),)
# Decoding rows, and steps with prompts, of a model that is there to be run at all.
TINY_ROWS = ((4,), (((16, 16), (5, 40)),))
NUM_PREFILLS = 3


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is timed of one model."""

    geometry: Geometry
    decodes: tuple[Rows, ...]
    prompts: tuple[Rows, ...]

    @property
    def limits(self) -> Limits:
        return limits_for(self.geometry, [*self.decodes, *self.prompts], MORE_TOKENS)


def steps(setup: Setup) -> Iterator[Row]:
    """Yield decodes of each model by rows, then a step of prompts alone and a mixed one."""
    plans = [_plan(geometry) for geometry in setup.geometries]
    yield from compile_ahead(setup, [work for plan in plans for work in _works(plan)])
    for plan in plans:
        model = Model(plan.geometry, plan.limits, setup)
        for rows in plan.decodes:
            yield from _decodes(setup, model, rows)
        for rows in plan.prompts:
            yield from _prefills(setup, model, rows)
        del model
        gc.collect()
        empty_cache()


def _plan(geometry: Geometry) -> _Plan:
    counts, prompts = (NUM_ROWS, (PREFILL, MIXED)) if geometry is not TINY else TINY_ROWS
    context = CONTEXTS[geometry.name]
    decodes = tuple(Rows(((1, context),) * count) for count in counts)
    return _Plan(geometry, decodes, tuple(map(Rows, prompts)))


def _works(plan: _Plan) -> Iterator[Work]:
    for rows in (*plan.prompts, *plan.decodes):
        yield Work(plan.geometry, plan.limits, rows, MORE_TOKENS)


def _decodes(setup: Setup, model: Model, rows: Rows) -> Iterator[Row]:
    """Greedy and drawn; by graphs too where there is a GPU: the tokens must be the same."""
    num_rows = len(rows.lengths)
    bucket = Bucket(num_rows, num_rows, 1, model.limits.max_context)
    eager: dict[float, list[tuple[int, ...]]] = {}
    for buckets in ((), (bucket,)) if setup.is_gpu else ((),):
        runner = model.runner(buckets)
        for temperature in (0.0, 1.0):
            runner.reset()
            batch = Driven(runner, Rows(rows.lengths, temperature), model.limits, MORE_TOKENS)
            batch.settle(batch.first())
            mode = "graph" if buckets else "eager"
            row = _decode_row(setup, model, rows, f"{mode} T={temperature:.0f}", batch)
            if batch.chosen != eager.setdefault(temperature, batch.chosen):
                row["fault"] = "other tokens than without graphs"
            yield row


def _decode_row(setup: Setup, model: Model, rows: Rows, mode: str, batch: Driven) -> Row:
    _run(batch, NUM_SETTLING)
    start_ns = time.perf_counter_ns()
    durations = _run(batch, NUM_TIMED)
    wall_ms = (time.perf_counter_ns() - start_ns) / 1e6 / NUM_TIMED
    floor_ms = floors.step_us(model.geometry, rows.lengths, setup.ceilings) / 1e3
    row: Row = {
        "what": f"{model.geometry.name} decode",
        "rows": len(rows.lengths),
        "context": rows.longest,
        "mode": mode,
        "step_ms": wall_ms,
        "device_ms": floors.median(durations) / 1e3,
        "floor_ms": floor_ms,
        "share": floors.share(floor_ms, wall_ms),
    }
    if setup.is_gpu:
        busy_ms, row["all"] = _busy(batch)
        row |= {"kernels_ms": busy_ms, "idle_share": max(0.0, 1 - busy_ms / wall_ms)}
    name = f"{model.geometry.name} {len(rows.lengths)} rows {mode} ms"
    return row | {"figures": {name: wall_ms}}


def _run(batch: Driven, count: int) -> list[int]:
    """Take ``count`` steps, each launched before the one before is waited for; device times, us."""
    durations, before = [], batch.next()
    for _ in range(count - 1):
        launched = batch.next()
        durations.append(batch.settle(before))
        before = launched
    return [*durations, batch.settle(before)]


def _busy(batch: Driven) -> tuple[float, list[Any]]:
    """Milliseconds a step in which kernels ran, and the dearest kernels."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        _run(batch, NUM_PROFILED)
        torch.cuda.synchronize()
    events = [event for event in profiler.key_averages() if event.device_type == DeviceType.CUDA]
    events.sort(key=lambda event: -event.self_device_time_total)
    total_ms = sum(event.self_device_time_total for event in events) / 1e3 / NUM_PROFILED
    return total_ms, [
        [event.key[:60], event.count // NUM_PROFILED, event.self_device_time_total / NUM_PROFILED]
        for event in events[:12]
    ]


def _prefills(setup: Setup, model: Model, rows: Rows) -> Iterator[Row]:
    num_rows = len(rows.lengths)
    bucket = Bucket(rows.num_tokens, num_rows, rows.num_tokens, model.limits.max_context)
    is_graphed = setup.is_gpu and num_rows > len(PREFILL)
    for buckets in ((), (bucket,)) if is_graphed else ((),):
        runner = model.runner(buckets)
        times = _firsts(runner, model, rows)
        yield _prefill_row(setup, model, rows, "graph" if buckets else "eager", times)


def _firsts(runner: Any, model: Model, rows: Rows) -> Sequence[tuple[float, float]]:
    """(wall, device) milliseconds of the same step, several times; the first one is not counted."""
    found = []
    for _ in range(NUM_PREFILLS + 1):
        runner.reset()
        batch = Driven(runner, rows, model.limits, MORE_TOKENS)
        start_ns = time.perf_counter_ns()
        device_us = batch.settle(batch.first())
        found.append(((time.perf_counter_ns() - start_ns) / 1e6, device_us / 1e3))
    return found[1:]


def _prefill_row(
    setup: Setup, model: Model, rows: Rows, mode: str, times: Sequence[tuple[float, float]]
) -> Row:
    wall_ms, device_ms = min(times)
    geometry = model.geometry
    floor_ms = floors.step_us(geometry, rows.lengths, setup.ceilings) / 1e3
    prompts = sum(count > 1 for count, _ in rows.lengths)
    return {
        "what": f"{geometry.name} prompts",
        "rows": f"{prompts} prompts, {len(rows.lengths) - prompts} decodes",
        "tokens": rows.num_tokens,
        "mode": mode,
        "step_ms": wall_ms,
        "device_ms": device_ms,
        "floor_ms": floor_ms,
        "share": floors.share(floor_ms, wall_ms),
        "tflop_per_s": geometry.step_flops(rows.lengths) / wall_ms / 1e9,
    }
