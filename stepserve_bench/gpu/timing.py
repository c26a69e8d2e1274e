"""How long work takes: on a GPU inside a CUDA graph, where the host's launches cost nothing."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

Launch = Callable[[], object]

_cuda: Any = torch.cuda  # some of it has no types

GRAPH_US, LAUNCH_US = 1500.0, 60.0
MAX_LAUNCHES = 96
NUM_REPLAYS = 7
# More than the level-two cache of any card there is: inputs that rotate come from memory.
COLD_BYTES = 160 << 20
MAX_COPIES = 24


def launch_us(launches: Sequence[Launch], device: torch.device) -> float:
    """The median microseconds of one launch; several are taken in turn, each with its own inputs.

    On a GPU they are captured in a CUDA graph, about 1.5 ms of them, which is replayed: a launch
    costs the host up to 45 us, which is more than most kernels take.
    """
    if device.type != "cuda":
        return _host_us(launches)
    estimate = eager_us(launches, max(2, len(launches)))
    # What seems to take as long as a launch is likely to take less.
    count = int(max(GRAPH_US // estimate, 1)) if estimate > LAUNCH_US else MAX_LAUNCHES
    count = -(-count // len(launches)) * len(launches)
    with captured(launches, count) as replay:
        return _replayed_us(replay) / count


def eager_us(launches: Sequence[Launch], count: int) -> float:
    """Microseconds of one launch by the host, one after the other, on a GPU; it was warmed up."""
    for launch in launches:
        launch()
    torch.cuda.synchronize()
    start, end = _events()
    start.record()
    for number in range(count):
        launches[number % len(launches)]()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) * 1e3 / count


@contextmanager
def captured(launches: Sequence[Launch], count: int) -> Iterator[Launch]:
    """Yield what replays ``count`` launches that were captured as one CUDA graph."""
    side = _cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for launch in launches:
            launch()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for number in range(count):
            launches[number % len(launches)]()
    try:
        yield graph.replay
    finally:
        torch.cuda.synchronize()
        graph.reset()


def num_copies(num_bytes: int) -> int:
    """How many copies of inputs of that size it takes for none to be in the cache when read."""
    return int(min(MAX_COPIES, max(1, -(-COLD_BYTES // max(num_bytes, 1)))))


def wall_us(work: Callable[[], object], count: int) -> float:
    """The median microseconds of ``work``, by the host's clock."""
    times = []
    for _ in range(count):
        start_ns = time.perf_counter_ns()
        work()
        times.append((time.perf_counter_ns() - start_ns) / 1e3)
    return statistics.median(times)


def _replayed_us(replay: Launch) -> float:
    for _ in range(2):
        replay()
    times = []
    for _ in range(NUM_REPLAYS):
        start, end = _events()
        start.record()
        replay()
        end.record()
        torch.cuda.synchronize()
        times.append(float(start.elapsed_time(end)) * 1e3)
    return statistics.median(times)


def _host_us(launches: Sequence[Launch]) -> float:
    for launch in launches:
        launch()
    return wall_us(launches[0], 3)


def _events() -> tuple[torch.cuda.Event, torch.cuda.Event]:
    return _cuda.Event(enable_timing=True), _cuda.Event(enable_timing=True)
