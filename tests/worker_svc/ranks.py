"""Ranks in threads of one process, over real Gloo groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from threading import Barrier
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from stepserve.protocol.step import ResidentSequence, StepCommand, StepReport
from worker_svc.cache_size import make_cache
from worker_svc.core.outcome import Chosen
from worker_svc.core.residents import StepPlan
from worker_svc.kernels import select
from worker_svc.kernels.ranks import GroupRanks
from worker_svc.model.decoder import Decoder
from worker_svc.model.loading import load_model
from worker_svc.model.part import Part
from worker_svc.model.share import Share
from worker_svc.runner import Runner
from worker_svc.settings import WorkerSettings
from worker_svc.step.layout import layout_for
from worker_svc.step.pending import Launched

Result = TypeVar("Result")
TIMEOUT = timedelta(seconds=60)


class RankThreads:
    """``size`` ranks, each in a thread that is its own for good."""

    def __init__(self, size: int) -> None:
        store: Any = dist.HashStore()

        def join(rank: int) -> GroupRanks:
            torch.set_num_threads(1)  # each thread has a number of its own
            group: Any = dist.ProcessGroupGloo(store, rank, size, TIMEOUT)
            return GroupRanks(group)

        self.size = size
        self._threads = [ThreadPoolExecutor(1, f"rank {rank}") for rank in range(size)]
        joined = [thread.submit(join, rank) for rank, thread in enumerate(self._threads)]
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


class RankedRunner:
    """A runner of which each rank has one: what they are told is the same, and what they say."""

    def __init__(self, threads: RankThreads, models: Sequence[Decoder], **settings: Any) -> None:
        self._threads = threads
        values = WorkerSettings(model="none", **settings)
        layout = layout_for(values.attention, values.batching)

        def make(ranks: GroupRanks) -> Runner:
            limits, cache = make_cache(values, models[ranks.rank], layout)
            return Runner(models[ranks.rank], cache, limits, layout)

        self.runners = threads.run(make)

    def plan(self, command: StepCommand) -> list[StepPlan]:
        return [runner.plan(command) for runner in self.runners]

    def launch(self, plans: list[StepPlan]) -> Together:
        def launch(ranks: GroupRanks) -> Launched:
            return self.runners[ranks.rank].launch(plans[ranks.rank])

        return Together(self._threads.begin(launch))

    def absorb(self, plans: list[StepPlan], chosen: list[Chosen]) -> StepReport:
        """The first one's report; that of another is the same but for how long it took."""
        reports = [
            runner.absorb(plan, one)
            for runner, plan, one in zip(self.runners, plans, chosen, strict=True)
        ]
        for report in reports[1:]:
            for name in ("token_sequence_ids", "token_ids", "finished", "freed", "logprobs"):
                assert getattr(report, name) == getattr(reports[0], name)
        return reports[0]

    def execute(self, command: StepCommand) -> StepReport:
        plans = self.plan(command)
        return self.absorb(plans, self.launch(plans).wait())

    def residents(self) -> tuple[ResidentSequence, ...]:
        described = [runner.residents() for runner in self.runners]
        assert all(residents == described[0] for residents in described)
        return described[0]


class Together:
    """A step that every rank was told to launch."""

    def __init__(self, launched: list[Future[Launched]]) -> None:
        self._launched = launched

    def is_done(self) -> bool:
        return all(future.done() and future.result().is_done() for future in self._launched)

    def wait(self) -> list[Chosen]:
        return [future.result().wait() for future in self._launched]
