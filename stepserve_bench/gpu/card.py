"""What computes, and what it reaches: the ceilings that all floors are made from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

import torch

from stepserve_bench.gpu.floors import measure_ceilings
from stepserve_bench.gpu.setup import Row, Setup


def card(setup: Setup) -> Iterator[Row]:
    """Yield one row: the device's name, its memory in bytes, and its ``Ceilings``."""
    row: Row = {"what": "card", "name": "cpu"}
    if setup.is_gpu:
        properties = torch.cuda.get_device_properties(0)
        row |= {
            "name": properties.name,
            "memory_bytes": properties.total_memory,
            "multiprocessors": properties.multi_processor_count,
            "capability": f"sm_{properties.major}{properties.minor}",
        }
    yield row | asdict(measure_ceilings(setup.device))


def has_gpu(_: Setup) -> Iterator[Row]:
    """Yield whether there is a GPU: asked for in a process of its own, since asking touches it."""
    yield {"what": "gpu", "is_there": torch.cuda.is_available()}
