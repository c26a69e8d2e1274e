"""How a worker died, told to its lane in its place: the kernel tells only who started it."""

from __future__ import annotations

import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from stepserve.protocol import step_wire
from stepserve.protocol.channel import server_options

# A lane whose stream broke asks at once, and a few times more; then it goes on without an answer.
MAX_WAIT_S = 1.0
# For the answer to be written.
LAST_WORDS_S = 0.1
# Whoever sends these means the process, not what it is at; the kernel's killer sends SIGKILL too.
FROM_OUTSIDE = {
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGKILL,
    signal.SIGQUIT,
    signal.SIGTERM,
}
# worker_svc.group.life: another process of the worker was silent, and nobody knows why.
EXIT_LOST = 4


def death_of(status: int) -> tuple[str, bool]:
    """Return how a process ended, by its exit status, and whether it did so by itself: a crash."""
    number = -status if status < 0 else status - 128
    try:
        signum = signal.Signals(number)
    except ValueError:
        return f"status {status}", status not in (0, EXIT_LOST)
    return signum.name, signum not in FROM_OUTSIDE


def tell_death(address: str, status: int) -> None:
    """Answer at the address of a worker that has ended until its lane has heard how, or never asks.

    Takes ``MAX_WAIT_S`` at most. Nothing is told where somebody else serves there by now.
    """
    server = grpc.server(ThreadPoolExecutor(2), options=server_options())
    obituary = _Obituary(*death_of(status))
    step_wire.add_WorkerServicer_to_server(obituary, server)  # type: ignore[no-untyped-call]
    try:
        server.add_insecure_port(address)
    except RuntimeError:
        return
    server.start()
    obituary.told.wait(MAX_WAIT_S)
    server.stop(LAST_WORDS_S).wait()


class _Obituary(step_wire.WorkerServicer):
    """Refuses every call, and says why."""

    def __init__(self, cause: str, has_crashed: bool) -> None:
        self.told = threading.Event()
        self._cause = cause
        codes = grpc.StatusCode
        # As a worker whose step has failed says it itself.
        self._code = codes.ABORTED if has_crashed else codes.NOT_FOUND

    def Describe(self, _request: object, context: grpc.ServicerContext) -> None:
        context.abort(self._code, self._cause)

    def Steps(self, _messages: Any, context: grpc.ServicerContext) -> None:
        self.told.set()
        context.abort(self._code, self._cause)
