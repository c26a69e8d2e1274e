"""Where a process stands in its group: of which part of the model, on which machine.

Ranks are counted stage by stage, so that the ranks of a stage, which talk the most, are on one
machine wherever that is possible. Imports no torch: who starts the ranks computes nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from worker_svc.errors import WorkerUnavailable
from worker_svc.model.part import Part
from worker_svc.settings import WorkerSettings

# What a LeaderWorkerSet of Kubernetes tells each of its pods.
LWS_ADDRESS, LWS_SIZE, LWS_INDEX = "LWS_LEADER_ADDRESS", "LWS_GROUP_SIZE", "LWS_WORKER_INDEX"
# Where its ranks meet: on the leader's pod.
LWS_PORT = 29500


@dataclass(frozen=True, slots=True)
class Machine:
    """One of the ``num_machines`` that a group runs on, and where the group meets.

    ``host`` is empty where all ranks are on one machine: then they meet on any free port of it.
    """

    index: int = 0
    num_machines: int = 1
    host: str = ""
    port: int = 0


@dataclass(frozen=True, slots=True)
class Place:
    """One rank of a group of ``num_stages * num_ranks``.

    Attributes:
        rank: its number in the group; 0 serves the step protocol.
        num_stages, num_ranks: pipeline stages, and tensor parallel ranks in each.
        local_rank, num_local: its number on its machine, and how many ranks are there.
        host, port: where the group meets; rank 0 listens there.
        listen_fd: the socket that rank 0 listens on where it was opened for it; -1: none.
        parent: the id of the process that started it.
    """

    rank: int
    num_stages: int
    num_ranks: int
    local_rank: int
    num_local: int
    host: str
    port: int
    listen_fd: int = -1
    parent: int = 0

    @property
    def world_size(self) -> int:
        """Ranks in the group."""
        return self.num_stages * self.num_ranks

    @property
    def part(self) -> Part:
        """What it has of the model."""
        return part_of(self.rank, self.num_stages, self.num_ranks)

    @property
    def column(self) -> list[int]:
        """The ranks with its place in each stage, the first stage's first: who it talks to."""
        return [stage * self.num_ranks + self.part.rank for stage in range(self.num_stages)]

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return self.part.name

    def encode(self) -> str:
        """As text, for a command line."""
        return json.dumps(asdict(self))

    @classmethod
    def decode(cls, text: str) -> Place:
        """What ``encode`` made."""
        return cls(**json.loads(text))


def part_of(rank: int, num_stages: int, num_ranks: int) -> Part:
    """What a rank of a group has of the model."""
    stage, rank_in_stage = divmod(rank, num_ranks)
    return Part(stage, num_stages, rank_in_stage, num_ranks)


def is_group(settings: WorkerSettings) -> bool:
    """Whether the worker is to be more than one process, or more than one machine's."""
    world_size = settings.pipeline_stages * settings.tensor_parallel
    return world_size > 1 or (settings.nodes or 1) > 1 or bool(settings.node_rank)


def machine_of(settings: WorkerSettings, environment: Mapping[str, str] = os.environ) -> Machine:
    """The machine that the flags say this is, or a LeaderWorkerSet's variables.

    Raises:
        WorkerUnavailable: they do not fit together.
    """
    machine = _machine(settings, environment)
    world_size = settings.pipeline_stages * settings.tensor_parallel
    if not 0 <= machine.index < machine.num_machines:
        raise WorkerUnavailable(
            f"--node-rank {machine.index}: of --nodes {machine.num_machines} the ranks are "
            f"0 to {machine.num_machines - 1}"
        )
    if world_size % machine.num_machines:
        raise WorkerUnavailable(
            f"--nodes {machine.num_machines}: {world_size} ranks (--pipeline-stages "
            f"{settings.pipeline_stages} times --tensor-parallel {settings.tensor_parallel}) "
            "are not the same number on each"
        )
    if machine.num_machines > 1 and not machine.host:
        raise WorkerUnavailable("--nodes: the machines need a --rendezvous HOST:PORT to meet at")
    return machine


def _machine(settings: WorkerSettings, environment: Mapping[str, str]) -> Machine:
    if settings.nodes is None and environment.get(LWS_SIZE, "1") != "1":
        return _machine_of_set(environment)
    if settings.nodes is None and settings.node_rank is not None:
        raise WorkerUnavailable("--node-rank: it needs --nodes, the number of machines")
    host, port = "", 0
    if settings.rendezvous:
        host, _, digits = settings.rendezvous.rpartition(":")
        if not host or not digits.isdecimal() or not 0 < int(digits) < 65536:
            raise WorkerUnavailable(f"--rendezvous {settings.rendezvous}: it is no HOST:PORT")
        host, port = host.strip("[]"), int(digits)
    return Machine(settings.node_rank or 0, settings.nodes or 1, host, port)


def _machine_of_set(environment: Mapping[str, str]) -> Machine:
    try:
        index, size = int(environment[LWS_INDEX]), int(environment[LWS_SIZE])
        return Machine(index, size, environment[LWS_ADDRESS], LWS_PORT)
    except (KeyError, ValueError):
        names = ", ".join((LWS_ADDRESS, LWS_SIZE, LWS_INDEX))
        raise WorkerUnavailable(f"{names}: a LeaderWorkerSet sets all of them") from None


def places(settings: WorkerSettings, machine: Machine) -> list[Place]:
    """The ranks of this machine, the lowest first; none of them has a socket or a parent yet."""
    num_local = settings.pipeline_stages * settings.tensor_parallel // machine.num_machines
    return [
        Place(
            rank=machine.index * num_local + local_rank,
            num_stages=settings.pipeline_stages,
            num_ranks=settings.tensor_parallel,
            local_rank=local_rank,
            num_local=num_local,
            host=machine.host,
            port=machine.port,
        )
        for local_rank in range(num_local)
    ]
