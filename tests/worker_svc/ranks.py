"""Ranks in threads of one process, over real Gloo groups."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from worker_svc.kernels.ranks import GroupRanks

Result = TypeVar("Result")
TIMEOUT = timedelta(seconds=60)


def on_ranks(size: int, function: Callable[[GroupRanks], Result]) -> list[Result]:
    """What ``function`` returns on each of ``size`` ranks, in their order."""
    store: Any = dist.HashStore()

    def run(rank: int) -> Result:
        torch.set_num_threads(1)  # each thread has a number of its own
        group: Any = dist.ProcessGroupGloo(store, rank, size, TIMEOUT)
        return function(GroupRanks(group))

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(run, range(size)))
