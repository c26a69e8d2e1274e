"""``python -m tests.fault.measure``: how long streams stand still after each fault, measured.

Prints a line for each run and, last, a JSON object: of each fault the longest stall of every
run in seconds, their median and their maximum.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
from pathlib import Path
from statistics import median

from scheduler_svc.queue import EmbeddedRedis, JobQueue
from tests.fault.faults import FAULTS, struck
from tests.fault.service import FaultyService, faulty_service, make_long_checkpoint


async def measure(service: FaultyService, num_runs: int) -> dict[str, list[float]]:
    """Return the longest stall of each run, by fault."""
    stalls_s: dict[str, list[float]] = {name: [] for name in FAULTS}
    even = [len(service.workers) // len(service.schedulers)] * len(service.schedulers)
    async with service.queue() as queue:
        for _ in range(num_runs):
            for name, fault in FAULTS.items():
                service.revive()
                await _until_driven(service, queue, even)
                async with struck(service, queue, fault) as (streams, _, struck_s):
                    stalls_s[name].append(round((await streams.stalls_s(struck_s))[-1], 2))
                    streams.check_texts()
                print(f"{name}: {stalls_s[name][-1]} s", flush=True)
    return stalls_s


async def _until_driven(service: FaultyService, queue: JobQueue, num_driven: list[int]) -> None:
    while await service.num_driven(queue) != num_driven:
        await asyncio.sleep(0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--processes", type=int, default=3, help="of workers and of schedulers")
    options = parser.parse_args()
    os.environ.setdefault("STEPSERVE_LOG_LEVEL", "ERROR")
    with tempfile.TemporaryDirectory(prefix="stepserve-fault-") as directory:
        checkpoint = make_long_checkpoint(Path(directory) / "llama")
        redis = EmbeddedRedis.start(Path(directory) / "redis")
        try:
            with faulty_service(checkpoint, redis.url) as service:
                service.add_workers(options.processes)
                service.add_schedulers(options.processes)
                stalls_s = asyncio.run(measure(service, options.runs))
        finally:
            redis.stop()
    figures = {
        name: {"stalls_s": runs, "median_s": median(runs), "max_s": max(runs)}
        for name, runs in stalls_s.items()
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
