"""One rank of a worker: how it loads its part, and how it runs steps among the others."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from kvstore.cache import KVCache
from stepserve.protocol.errors import one_line
from worker_svc.cache_size import MEMORY_FRACTIONS
from worker_svc.core.limits import Limits
from worker_svc.errors import WorkerUnavailable
from worker_svc.group.follower import Follower
from worker_svc.group.leader import Leader
from worker_svc.group.life import EXIT_BROKEN
from worker_svc.group.link import GroupLink
from worker_svc.group.spans import NOWHERE, SpanFile
from worker_svc.group.team import Team
from worker_svc.group.turns import Turn, TurnWriter, turns
from worker_svc.group.wire import Wires
from worker_svc.model.model import Model
from worker_svc.model.share import Share
from worker_svc.runner import Runner
from worker_svc.settings import WorkerSettings
from worker_svc.step.layout import Layout

# What the ranks' plans and the shapes of their messages follow from.
SAME_FLAGS = (
    "attention", "batching", "block_size", "max_batch_size", "max_step_tokens", "max_context",
)  # fmt: skip


class Member:
    """What assembly asks for where the worker is a group; ``Alone`` answers where it is not."""

    def __init__(self, team: Team) -> None:
        self._team = team
        self._place = team.place
        self._leader: Leader | None = None
        self._follower: Follower | None = None
        self._device = torch.device("cpu")
        self._wires: Wires | None = None

    def settings(self, settings: WorkerSettings, device: torch.device) -> WorkerSettings:
        """This rank's part of what the settings give the worker on this machine.

        Raises WorkerUnavailable where ranks were started with settings that do not go together.
        """
        self._team.check_same({name: getattr(settings, name) for name in SAME_FLAGS})
        if device.type == "cuda":
            return settings
        num_local = self._place.num_local
        fraction = settings.memory_fraction or MEMORY_FRACTIONS["cpu"]
        cores = len(os.sched_getaffinity(0))
        num_threads = settings.num_threads or max(1, cores // num_local)
        update = {"memory_fraction": fraction / num_local, "num_threads": num_threads}
        return settings.model_copy(update=update)

    def device(self, device: torch.device) -> torch.device:
        """This rank's own device of the kind. Raises WorkerUnavailable where there are too few."""
        if device.type != "cuda":
            return device
        count = torch.cuda.device_count()
        if self._place.num_local > count:
            raise WorkerUnavailable(
                f"--device cuda: {self._place.num_local} ranks on this machine need a GPU each, "
                f"torch finds {count}"
            )
        own = torch.device("cuda", self._place.local_rank)
        torch.cuda.set_device(own)
        self._device = own
        return own

    def share(self) -> Share:
        """What it loads; opens the connections that it computes with."""
        self._wires = self._team.connect(self._device)
        return self._team.share(self._team.ranks(self._device))

    def agree(self, num_blocks: int) -> int:
        """Every rank has the same blocks: as many as the poorest has room for."""
        return self._team.least("blocks", num_blocks)

    def runner(
        self, model: Model, cache: KVCache, limits: Limits, layout: Layout, settings: WorkerSettings
    ) -> Runner:
        """What runs this rank's steps."""
        into = settings.record_stages_dir
        wires = self._wires
        assert wires is not None, "what computes has been loaded"
        spans = SpanFile(Path(into), self._place) if into else NOWHERE
        link = GroupLink(self._place, wires, model, spans)
        others = list(range(1, self._place.world_size))
        if self._place.rank == 0:
            writer = TurnWriter(wires.turns, others, self._lost)
            self._leader = Leader(model, cache, limits, layout, link, writer)
            return self._leader
        runner = Runner(model, cache, limits, layout, link)
        self._follower = Follower(runner, turns(wires.turns))
        return runner

    def warm_up(self, runner: Runner) -> None:
        """Compute first steps, all ranks together."""
        if self._follower is None:
            runner.warm_up()
        elif self._follower.follow() is not Turn.WARM:
            raise RuntimeError("the group ended while it warmed up")

    def start(self) -> None:
        """Wait until every rank has all that it needs to serve."""
        self._team.gather("ready", "")
        self._team.life.serve()

    def follow(self) -> None:
        """Do what rank 0 says until it says that the worker ends."""
        assert self._follower is not None
        self._follower.follow()

    def end(self) -> None:
        """The worker ends as it should."""
        if self._leader is not None:
            self._leader.end()
        self._team.part_company()

    def fail(self, problem: str, status: int = EXIT_BROKEN) -> None:
        """End the group: of this rank there is no more to be had. Does not return."""
        whose = "" if self._place.rank == 0 else f"{self._place.name}: "
        self._team.life.fail(whose + problem, status)

    def _lost(self, error: Any) -> None:
        self.fail(f"another rank can't be told what to do: {one_line(error)}")
