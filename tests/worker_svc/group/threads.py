"""A group whose ranks are threads: all of it is real but the wires, which are queues.

The ranks of a stage compute together over Gloo.
"""

from __future__ import annotations

import queue
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from kvstore.cache import KVCache
from stepserve.protocol.step import ResidentSequence
from tests.worker_svc.ranks import join
from worker_svc.assembled import Assembly
from worker_svc.assembly import assemble
from worker_svc.core.limits import Limits
from worker_svc.group.follower import Follower
from worker_svc.group.leader import Leader
from worker_svc.group.link import GroupLink
from worker_svc.group.place import Machine, Place, places
from worker_svc.group.turns import Turn, TurnWriter, turns
from worker_svc.group.wire import Wires
from worker_svc.kernels.ranks import LONE
from worker_svc.model.model import Model
from worker_svc.model.share import Digests, Share
from worker_svc.runner import Runner
from worker_svc.settings import WorkerSettings
from worker_svc.step.layout import Layout

GIVE_UP_S = 60.0
Route = tuple[str, int, int]
Prepare = Callable[[Runner], object]


class Post:
    """What ranks have sent each other, by kind, sender and receiver."""

    def __init__(self) -> None:
        self.queues: defaultdict[Route, queue.SimpleQueue[Tensor | Exception]] = defaultdict(
            queue.SimpleQueue
        )
        self.failures: list[Exception] = []
        self.meeting = dist.HashStore()
        # What each rank held in the end.
        self.held: dict[int, tuple[ResidentSequence, ...]] = {}

    def wires(self, rank: int) -> Wires:
        return Wires(*(QueueWire(self, kind, rank) for kind in ("turns", "states", "choices")))

    def fail(self, error: Exception) -> None:
        """Whoever waits for something raises it, now or later."""
        self.failures.append(error)
        for waiting in self.queues.values():
            waiting.put(error)


class QueueWire:
    """A ``Wire`` between threads; what is received is checked to be what was expected."""

    def __init__(self, post: Post, kind: str, rank: int) -> None:
        self._post, self._kind, self._rank = post, kind, rank

    def send(self, message: Tensor, rank: int) -> None:
        self._post.queues[self._kind, self._rank, rank].put(message)

    def receive(self, message: Tensor, rank: int) -> None:
        found = self._post.queues[self._kind, rank, self._rank].get(timeout=GIVE_UP_S)
        if isinstance(found, Exception):
            raise found
        assert (found.shape, found.dtype) == (message.shape, message.dtype)
        message.copy_(found)

    def flush(self) -> None:
        pass


def small_settings(checkpoint: Path, **overrides: Any) -> WorkerSettings:
    """A worker in float64 with few, small blocks."""
    values: dict[str, Any] = {
        "model": str(checkpoint),
        "dtype": "float64",
        "device": "cpu",
        "kernels": "torch",
        "block_size": 4,
        "num_blocks": 64,
        "max_batch_size": 6,
        "max_step_tokens": 64,
    }
    return WorkerSettings(**values | overrides)


class ThreadCompany:
    """What ``Member`` is where ranks are processes."""

    def __init__(self, place: Place, post: Post, all_digests: AllDigests) -> None:
        self._place, self._post, self._all_digests = place, post, all_digests
        self._wires = post.wires(place.rank)
        self.leader: Leader | None = None

    def settings(self, settings: WorkerSettings, _: torch.device, /) -> WorkerSettings:
        return settings

    def device(self, device: torch.device) -> torch.device:
        return device

    def share(self) -> Share:
        part, ranks = self._place.part, LONE
        if part.num_ranks > 1:
            meeting = dist.PrefixStore(f"stage {part.stage}", self._post.meeting)
            ranks = join(meeting, part.rank, part.num_ranks)
        return Share(part, digests=self._all_digests.gather, ranks=ranks)

    def agree(self, num_blocks: int) -> int:
        return num_blocks

    def runner(
        self, model: Model, cache: KVCache, limits: Limits, layout: Layout, _: WorkerSettings, /
    ) -> Runner:
        link = GroupLink(self._place, self._wires, model)
        if self._place.rank > 0:
            return Runner(model, cache, limits, layout, link)
        others = list(range(1, self._place.world_size))
        writer = TurnWriter(self._wires.turns, others, self._post.fail)
        self.leader = Leader(model, cache, limits, layout, link, writer)
        return self.leader

    def warm_up(self, runner: Runner) -> None:
        if self._place.rank == 0:
            runner.warm_up()
        else:
            assert self._follower(runner).follow() is Turn.WARM

    def fail(self, _problem: str, /) -> None:
        """The test sees the failure itself."""

    def follow(self, settings: WorkerSettings, prepare: Prepare) -> None:
        """Be a rank that follows, until rank 0 ends."""
        try:
            runner = assemble(settings, self._place.name, self).runner
            prepare(runner)
            assert self._follower(runner).follow() is Turn.END
            self._post.held[self._place.rank] = runner.residents()
        except Exception as error:
            self._post.fail(error)
            raise

    def _follower(self, runner: Runner) -> Follower:
        return Follower(runner, turns(self._wires.turns))


class AllDigests:
    """What each of the ranks has read; they wait for each other."""

    def __init__(self, num_ranks: int) -> None:
        self._found: Digests = {}
        self._barrier = threading.Barrier(num_ranks, timeout=GIVE_UP_S)

    def gather(self, digests: Digests) -> Digests:
        self._found.update(digests)
        self._barrier.wait()
        return self._found


@contextmanager
def group(
    settings: WorkerSettings, incarnation: str = "me", prepare: Prepare = repr
) -> Iterator[tuple[Assembly, Leader]]:
    """Rank 0, assembled; the others follow it until the end of the block.

    Each rank's runner is ``prepare``d before it serves.
    """
    num_ranks = settings.pipeline_stages * settings.tensor_parallel
    post, digests = Post(), AllDigests(num_ranks)
    first, *others = (ThreadCompany(place, post, digests) for place in places(settings, Machine()))
    threads = [
        threading.Thread(target=company.follow, args=(settings, prepare), daemon=True)
        for company in others
    ]
    for thread in threads:
        thread.start()
    assembly = assemble(settings, incarnation, first)
    leader = first.leader
    assert leader is not None
    prepare(leader)
    try:
        yield assembly, leader
    finally:
        leader.end()
        for thread in threads:
            thread.join(GIVE_UP_S)
    assert not post.failures
    assert len(post.held) == len(others)
    for held in post.held.values():
        assert held == leader.residents(), "its core is another one"
