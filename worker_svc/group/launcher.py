"""The processes of a worker on one machine: started together, and ended together.

Imports no torch. It outlives none of them and none of them outlives it: where one has ended the
others are given a moment to say why, and are killed, those that are stopped as well.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from stepserve.process.stopping import Stop, stop_signals
from stepserve.process.tether import tethered
from worker_svc.group.life import EXIT_BROKEN, PROG
from worker_svc.group.place import Machine, Place, places
from worker_svc.settings import WorkerSettings

POLL_S = 0.05
# For the others to end by themselves, and for rank 0 to say why, once one has ended.
LAST_WORDS_S = 0.8
# A step that takes longer to end than a worker waits for it, and a little.
STOP_TIMEOUT_S = 8.0
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class RankProcess:
    """A rank and its process."""

    place: Place
    process: subprocess.Popen[bytes]


def run_ranks(settings: WorkerSettings, machine: Machine) -> int:
    """Run this machine's ranks until one has ended; return the exit status.

    0 after SIGTERM or SIGINT, or where rank 0 ended the group as it should.
    """
    with stop_signals() as stop:
        ranks: list[RankProcess] = []
        try:
            _start(settings, machine, ranks)
            return _watch(ranks, stop)
        finally:
            for rank in ranks:
                rank.process.kill()
            for rank in ranks:
                rank.process.wait()


def _start(settings: WorkerSettings, machine: Machine, ranks: list[RankProcess]) -> None:
    # Of connections that break torch says in many lines what we say in one; read when it is loaded.
    environment = {"TORCH_CPP_LOG_LEVEL": "ERROR", **os.environ}
    if machine.host:
        for place in places(settings, machine):
            ranks.append(_spawn(replace(place, parent=os.getpid()), settings, environment))
        return
    # Whatever the host's name resolves to: they are all here.
    environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
    with socket.create_server((LOOPBACK, 0)) as meeting:
        host, port = meeting.getsockname()
        for place in places(settings, machine):
            fd = meeting.fileno() if place.rank == 0 else -1
            here = replace(place, host=host, port=port, listen_fd=fd, parent=os.getpid())
            ranks.append(_spawn(here, settings, environment))


def _spawn(place: Place, settings: WorkerSettings, environment: dict[str, str]) -> RankProcess:
    command = tethered("worker_svc.rank", place.encode(), settings.model_dump_json())
    fds = [place.listen_fd] if place.listen_fd >= 0 else []
    # A session of their own: a Ctrl-C in the terminal reaches us alone.
    process = subprocess.Popen(command, pass_fds=fds, start_new_session=True, env=environment)
    return RankProcess(place, process)


def _watch(ranks: Sequence[RankProcess], stop: Stop) -> int:
    """Wait for the end of a rank, or for a signal."""
    give_up_s = None
    while all(rank.process.poll() is None for rank in ranks):
        if stop.is_set() and give_up_s is None:
            give_up_s = time.monotonic() + STOP_TIMEOUT_S
            if ranks[0].place.rank == 0:
                ranks[0].process.terminate()
        if give_up_s is not None and time.monotonic() > give_up_s:
            return EXIT_BROKEN
        time.sleep(POLL_S)
    if stop.is_set() and ranks[0].process.poll() is not None:
        # Our signal ends at once what has nothing to put in order yet.
        was_loading = ranks[0].process.returncode == -signal.SIGTERM
        return 0 if was_loading else _status(ranks[0])
    last_s = time.monotonic() + LAST_WORDS_S
    while time.monotonic() < last_s and any(rank.process.poll() is None for rank in ranks):
        time.sleep(POLL_S)
    found = [_status(rank) for rank in ranks if rank.process.poll() is not None]
    are_all = len(found) == len(ranks)
    # Who was killed is why steps of the others failed.
    found.sort(key=lambda status: status <= 128)
    return next(filter(None, found), 0 if are_all else EXIT_BROKEN)


def _status(rank: RankProcess) -> int:
    """The rank's exit status, as a shell has it; that it was killed nobody but us can say."""
    status = rank.process.returncode
    if status >= 0:
        return status
    name = signal.Signals(-status).name
    print(f"{PROG}: {rank.place.name} was ended by {name}", file=sys.stderr, flush=True)
    return 128 - status
