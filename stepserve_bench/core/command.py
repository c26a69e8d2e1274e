"""``stepserve bench core``: what one decision costs, and what vLLM's scheduler takes for it."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict
from rich.console import Console
from rich.table import Table

from stepserve_bench.core.peers.process import README, Peer
from stepserve_bench.core.steady_decode import DecodeCase, SteadyDecode, random_prompts
from stepserve_bench.measure.figures import percentile
from stepserve_bench.report.machine import machine
from stepserve_bench.report.output import finish
from stepserve_bench.report.tables import table_console

NO_PEER = (
    "our core only: --peer-python PATH times vLLM's scheduler beside it, "
    f"and {README} says how to get one"
)

# Figure: how the table calls it.
RUNNING_COLUMNS = {
    "handle_us_p50": "p50",
    "handle_us_p90": "p90",
    "handle_us_p99": "p99",
    "handle_us_mean": "mean",
    "handle_us_p50_per_sequence": "p50 a sequence",
    "peer_us_p50": "peer p50",
    "peer_us_mean": "peer mean",
    "ratio_p50": "ratio p50",
}
WAITING_COLUMNS = {
    "num_running": "running",
    "num_waiting": "waiting",
    "handle_us_p50": "p50",
    "handle_us_p99": "p99",
    "handle_us_mean": "mean",
    "allocated_bytes_p50": "bytes p50",
    "allocated_bytes_max": "bytes max",
}


class CoreBench(BaseSettings):
    """Time Core.handle() alone: a report in, the next step out, all sequences decoding.

    Prefix caching is on, two steps are in flight, and blocks fill as they do in service.
    Python's collector is on, as in a scheduler. With --peer-python, vLLM's V1 scheduler
    (schedule and update_from_output) has the same prompts and takes turns with the core.
    """

    model_config = SettingsConfigDict(
        env_prefix="STEPSERVE_BENCH_CORE_", env_ignore_empty=True, frozen=True
    )

    running: tuple[int, ...] = Field((64, 256, 1024), description="running sequences, A,B,C")
    num_steps: int = Field(1000, ge=1, description="steps timed for each")
    num_rounds: int = Field(5, ge=1, description="turns in which core and peer take them")
    num_warm_up_steps: int = Field(64, ge=0, description="steps before, not timed")
    prompt_tokens: tuple[int, int] = Field((192, 208), description="prompt lengths, LOW,HIGH")
    block_size: int = Field(16, ge=1, description="tokens in a block")
    waiting_beside: int = Field(256, ge=1, description="running sequences beside waiting ones")
    waiting: tuple[int, ...] = Field((0, 1024, 16384), description="waiting sequences, A,B,C")
    num_traced_steps: int = Field(64, ge=1, description="steps whose allocations are traced")
    peer_python: str = Field("", description="a Python that can import vllm; default: no peer")
    seed: int = Field(0, description="seed of prompts")
    out: str = Field("", description="also write the figures to this JSON file")

    def run(self) -> int:
        """Measure; the last line printed is a JSON object with the figures."""
        console = Console(stderr=True)
        result: dict[str, Any] = {}
        with ExitStack() as stack:
            peer = None
            if self.peer_python:
                console.print("the peer is imported …")
                peer = stack.enter_context(Peer(self.peer_python))
            else:
                console.print(NO_PEER)
            for count in self.running:
                console.print(f"{count} running …")
                result[f"running_{count}"] = self._running(count, peer)
            if peer is not None:
                result["peer"] = peer.versions
        console.print("waiting beside them …")
        result["waiting"] = [self._waiting(count) for count in self.waiting]
        result["workload"] = self.model_dump(exclude={"out", "peer_python"})
        result["machine"] = machine()
        table_console().print(running_table(result), waiting_table(result))
        finish(result, self.out)
        return 0

    def _case(self, count: int, num_waiting: int = 0) -> DecodeCase:
        low, high = self.prompt_tokens
        prompts = random_prompts(count, (low, high), self.seed)
        # Two steps more are in flight, and each sequence has begun before the last one has.
        num_prompt_steps = 4 + count * high // 2048
        num_steps = self.num_warm_up_steps + self.num_steps + self.num_traced_steps
        return DecodeCase(prompts, num_steps + num_prompt_steps + 2, self.block_size, num_waiting)

    def _running(self, count: int, peer: Peer | None) -> dict[str, float]:
        """Return the figures of so many running sequences, core and peer in turns."""
        case = self._case(count)
        decode = SteadyDecode(case)
        for _ in range(self.num_warm_up_steps):
            decode.step()
        if peer is not None:
            peer.start(case, self.num_warm_up_steps)
        ours_us: list[float] = []
        theirs_us: list[float] = []
        for round_index in range(self.num_rounds):
            done = self.num_steps * round_index // self.num_rounds
            num_steps = self.num_steps * (round_index + 1) // self.num_rounds - done
            ours_us += timed(decode, num_steps)
            if peer is not None:
                theirs_us += peer.measure(num_steps)
        result = {**figures("handle_us", ours_us)}
        result["handle_us_p50_per_sequence"] = result["handle_us_p50"] / count
        result["num_steps"] = len(ours_us)
        if theirs_us:
            result |= figures("peer_us", theirs_us)
            result["ratio_p50"] = result["handle_us_p50"] / result["peer_us_p50"]
            result["ratio_mean"] = result["handle_us_mean"] / result["peer_us_mean"]
        return result

    def _waiting(self, num_waiting: int) -> dict[str, float]:
        """Return the figures beside waiting sequences: durations, then allocations."""
        decode = SteadyDecode(self._case(self.waiting_beside, num_waiting))
        for _ in range(self.num_warm_up_steps):
            decode.step()
        durations_us = timed(decode, self.num_steps)
        peaks = peak_bytes(decode, self.num_traced_steps)
        return {
            "num_running": decode.core.num_running,
            "num_waiting": decode.core.num_waiting,
            **figures("handle_us", durations_us),
            "allocated_bytes_p50": percentile(peaks, 0.5),
            "allocated_bytes_max": max(peaks),
        }


def timed(decode: SteadyDecode, num_steps: int) -> list[float]:
    """Take so many steps; return the duration of each in µs."""
    gc.collect()  # What was made before is not these steps' garbage.
    return [decode.step()[0] for _ in range(num_steps)]


def peak_bytes(decode: SteadyDecode, num_steps: int) -> list[int]:
    """Take so many steps; return how many bytes each had allocated at most, at one time."""
    tracemalloc.start()
    try:
        return [decode.step()[1] for _ in range(num_steps)]
    finally:
        tracemalloc.stop()


def figures(name: str, values: list[float]) -> dict[str, float]:
    """Return percentiles and mean under names that begin with ``name``."""
    fractions = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
    result = {
        f"{name}_{label}": percentile(values, fraction) for label, fraction in fractions.items()
    }
    result[f"{name}_mean"] = sum(values) / len(values)
    return result


def cell(value: float) -> str:
    """Return the number with the digits that a reader needs."""
    return f"{value:.0f}" if value >= 100 else f"{value:.2f}"


def running_table(result: Mapping[str, Any]) -> Table:
    """Return one line for each number of running sequences."""
    view = Table(title="one step, every sequence decoding: µs")
    view.add_column("running", justify="right")
    for name in RUNNING_COLUMNS.values():
        view.add_column(name, justify="right")
    for key, row in result.items():
        if key.startswith("running_"):
            cells = [cell(row[name]) if name in row else "" for name in RUNNING_COLUMNS]
            view.add_row(key.removeprefix("running_"), *cells)
    return view


def waiting_table(result: Mapping[str, Any]) -> Table:
    """Return one line for each number of waiting sequences."""
    view = Table(title="the same step beside waiting sequences: µs; bytes that it allocates")
    for name in WAITING_COLUMNS.values():
        view.add_column(name, justify="right")
    for row in result["waiting"]:
        view.add_row(*(f"{row[name]:,.0f}" for name in WAITING_COLUMNS))
    return view
