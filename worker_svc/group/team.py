"""A group's ranks, met: the store that they agree in, and the connections between them.

All of it is ``torch.distributed``: its store, Gloo for what the hosts tell each other, and NCCL
between GPUs. Each kind of message has connections of its own, so that none waits for another.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from uuid import uuid4

import torch
import torch.distributed as dist

from worker_svc.errors import WorkerUnavailable
from worker_svc.group.life import FAILURE, Life, beat_key
from worker_svc.group.place import Place, part_of
from worker_svc.group.wire import GroupWire, Wires
from worker_svc.kernels.ranks import LONE, GroupRanks, Ranks
from worker_svc.model.share import Digests, Share

log = logging.getLogger(__name__)
_distributed: Any = dist  # some of it has no types

# Other machines may have to load an image first.
MEET_TIMEOUT_S = 1800.0
# What is waited for may take as long as it likes: that somebody is gone is seen by Life.
FOR_EVER = timedelta(days=365)
LOOK_S = 0.05
SAY_EVERY_S = 30.0
FAREWELL_S = 1.0


class Team:
    """This rank among the others; they have met once it is made.

    Raises:
        WorkerUnavailable: the others did not come.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self._store = _store(place)
        ranks = range(place.world_size)
        names = {rank: part_of(rank, place.num_stages, place.num_ranks).name for rank in ranks}
        if place.rank == 0:
            for key in (FAILURE, *map(beat_key, ranks)):
                self._store.set(key, "")
        self._join()
        self.life = Life(self._store.clone(), place.rank, names)
        self.life.start()
        self._wait_for_all()

    def _join(self) -> None:
        """Take our place, unless a process of another life has it still."""
        rank, me = self.place.rank, uuid4().hex
        if self._store.compare_set(f"joined/{rank}", "", me).decode() != me:
            raise WorkerUnavailable(
                f"{self.place.name} has another process already at {self.place.host}:"
                f"{self.place.port}: it has to end first"
            )

    def _wait_for_all(self) -> None:
        begin_s = said_s = time.monotonic()
        missing = list(range(self.place.world_size))
        while missing := [rank for rank in missing if not self._store.check([f"joined/{rank}"])]:
            now_s = time.monotonic()
            if now_s - begin_s > MEET_TIMEOUT_S:
                raise WorkerUnavailable(f"ranks {missing} did not come to {self.place.host}")
            if now_s - said_s > SAY_EVERY_S:
                said_s = now_s
                log.info("waiting for %d of %d ranks", len(missing), self.place.world_size)
            time.sleep(LOOK_S)

    def connect(self, device: torch.device) -> Wires:
        """Open the connections between all ranks; ``device`` is what they compute on."""
        place = self.place
        dist.init_process_group(
            "gloo",
            store=self._store,
            rank=place.rank,
            world_size=place.world_size,
            timeout=FOR_EVER,
        )
        backends = {"turns": "gloo", "states": _backend(device), "choices": "gloo"}
        groups = {kind: dist.new_group(backend=b, timeout=FOR_EVER) for kind, b in backends.items()}
        num_ranks = place.world_size
        return Wires(**{kind: GroupWire(group, num_ranks) for kind, group in groups.items()})

    def ranks(self, device: torch.device) -> Ranks:
        """Those of this rank's stage, once the connections are there: they have their own."""
        size = self.place.num_ranks
        found: Ranks = LONE
        for first in range(0, self.place.world_size, size) if size > 1 else ():
            members = list(range(first, first + size))
            # Every rank takes part in making each of the groups.
            group = dist.new_group(members, backend=_backend(device), timeout=FOR_EVER)
            if self.place.rank in members:
                found = GroupRanks(group)
        return found

    def gather(self, topic: str, word: str) -> list[str]:
        """Every rank's word on a topic, by rank; each topic is spoken of once."""
        self._store.set(f"{topic}/{self.place.rank}", word)
        keys = [f"{topic}/{rank}" for rank in range(self.place.world_size)]
        self._store.wait(keys, FOR_EVER)
        return [word.decode() for word in self._store.multi_get(keys)]

    def least(self, topic: str, number: int) -> int:
        """The least of every rank's number."""
        return min(map(int, self.gather(topic, str(number))))

    def check_same(self, flags: Mapping[str, object]) -> None:
        """Raise WorkerUnavailable where rank 0 was started with other ``flags``, each by its name.

        Every rank plans for itself: with other limits it would wait for what nobody sends.
        """
        told = self.gather("flags", json.dumps(flags))
        for name, value in json.loads(told[0]).items():
            if flags[name] != value:
                raise WorkerUnavailable(
                    f"--{name.replace('_', '-')}: {flags[name]} where rank 0 has {value}: "
                    "all machines of a worker need the same"
                )

    def share(self, ranks: Ranks) -> Share:
        """How this rank loads its part of the model, and who has the rest of its stage."""
        return Share(self.place.part, self._check_checkpoint, self._all_digests, ranks)

    def _all_digests(self, digests: Digests) -> Digests:
        found: Digests = {}
        for word in self.gather("digests", json.dumps(digests)):
            found |= json.loads(word)
        return found

    def _check_checkpoint(self, facts: str) -> None:
        """Raise WorkerUnavailable where another rank has another checkpoint, or settings."""
        told = self.gather("checkpoint", hashlib.sha256(facts.encode()).hexdigest())
        if len(set(told)) > 1:
            raise WorkerUnavailable(
                f"--model: what {self.place.name} finds there is not what all others find: "
                "configuration, tensors or --dtype differ"
            )

    def part_company(self) -> None:
        """The group ends as it should: leave once the others have heard of it."""
        self.life.close()
        with contextlib.suppress(RuntimeError):  # rank 0 waited for us, and not for ever
            self._store.set(f"gone/{self.place.rank}", "")
        others = [f"gone/{rank}" for rank in range(1, self.place.world_size)]
        give_up_s = time.monotonic() + FAREWELL_S
        while self.place.rank == 0 and time.monotonic() < give_up_s:
            if self._store.check(others):
                return
            time.sleep(LOOK_S)


def _backend(device: torch.device) -> str:
    """What tensors on such a device go through."""
    return "nccl" if device.type == "cuda" else "gloo"


def _store(place: Place) -> Any:
    """The store; rank 0 has it. Raises WorkerUnavailable where it can't be reached."""
    log.info("%s meets the others at %s:%d", place.name, place.host, place.port)
    try:
        return _distributed.TCPStore(
            place.host,
            place.port,
            is_master=place.rank == 0,
            timeout=timedelta(seconds=MEET_TIMEOUT_S),
            wait_for_workers=False,
            master_listen_fd=place.listen_fd if place.listen_fd >= 0 else None,
        )
    except (RuntimeError, ValueError) as error:  # torch's own are RuntimeErrors
        line = str(error).splitlines()[0]
        raise WorkerUnavailable(f"--rendezvous {place.host}:{place.port}: {line}") from error
