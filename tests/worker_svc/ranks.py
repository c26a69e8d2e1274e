"""Ranks in threads of one process, over real Gloo groups."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from threading import Barrier
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from worker_svc.kernels import select
from worker_svc.kernels.ranks import GroupRanks
from worker_svc.model.decoder import Decoder
from worker_svc.model.loading import load_model
from worker_svc.model.part import Part
from worker_svc.model.share import Share

Result = TypeVar("Result")
TIMEOUT = timedelta(seconds=60)


def join(store: Any, rank: int, size: int) -> GroupRanks:
    """Become one of ``size`` ranks that meet in ``store``, in a thread of its own; wait for all."""
    torch.set_num_threads(1)  # each thread has a number of its own
    group: Any = dist.ProcessGroupGloo(store, rank, size, TIMEOUT)
    return GroupRanks(group)


class RankThreads:
    """``size`` ranks, each in a thread that is its own for good."""

    def __init__(self, size: int) -> None:
        store = dist.HashStore()
        self.size = size
        self._threads = [ThreadPoolExecutor(1, f"rank {rank}") for rank in range(size)]
        joined = [
            thread.submit(join, store, rank, size) for rank, thread in enumerate(self._threads)
        ]
        self._ranks = [future.result() for future in joined]

    def begin(self, function: Callable[[GroupRanks], Result]) -> list[Future[Result]]:
        """Let each rank call ``function``."""
        pairs = zip(self._threads, self._ranks, strict=True)
        return [thread.submit(function, ranks) for thread, ranks in pairs]

    def run(self, function: Callable[[GroupRanks], Result]) -> list[Result]:
        """What ``function`` returns on each of them, in their order."""
        return [future.result() for future in self.begin(function)]


def on_ranks(size: int, function: Callable[[GroupRanks], Result]) -> list[Result]:
    """What ``function`` returns on each of ``size`` ranks."""
    return RankThreads(size).run(function)


class Exchange:
    """What each of several threads has read of a checkpoint, told to all of them."""

    def __init__(self, size: int) -> None:
        self._everyone = Barrier(size, timeout=60)
        self._digests: dict[str, str] = {}

    def __call__(self, digests: dict[str, str]) -> dict[str, str]:
        self._digests |= digests
        self._everyone.wait()
        return self._digests


def load_ranks(
    threads: RankThreads, checkpoint: Path, dtype: str = "float64", kernels: str = "torch"
) -> list[Decoder]:
    """The model of each rank."""
    exchange = Exchange(threads.size)

    def load(ranks: GroupRanks) -> Decoder:
        share = Share(Part(rank=ranks.rank, num_ranks=ranks.size), str, exchange, ranks)
        return load_model(checkpoint, dtype, "cpu", select(kernels, "cpu"), share=share)

    return threads.run(load)
