"""How a worker died is told where it was, and only what it did itself counts as a crash."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time

import grpc
import pytest

from stepserve.local import obituary, processes
from stepserve.local.obituary import EXIT_LOST, death_of, tell_death
from stepserve.local.processes import Supervisor
from stepserve.protocol import step_wire
from stepserve.protocol.step import Hello
from tests.stepserve.local.test_supervisor import serves, small
from worker_svc.group import life

WAIT_S = 30.0
TOLD = (grpc.StatusCode.ABORTED, grpc.StatusCode.NOT_FOUND)


def ask(address: str) -> tuple[grpc.StatusCode, str]:
    """Greet whoever is there; how that ended."""
    with grpc.insecure_channel(address) as channel:
        stub = step_wire.WorkerStub(channel)  # type: ignore[no-untyped-call]
        try:
            next(stub.Steps(iter([step_wire.encode_lane_message(Hello(1, "me"))]), timeout=5))
        except grpc.RpcError as error:
            return error.code(), error.details()
    raise AssertionError("it lives")


@pytest.fixture
def address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return f"127.0.0.1:{port}"


@pytest.mark.parametrize(
    ("status", "death"),
    [
        (-signal.SIGSEGV, ("SIGSEGV", True)),
        (-signal.SIGABRT, ("SIGABRT", True)),
        (128 + signal.SIGBUS, ("SIGBUS", True)),
        (3, ("status 3", True)),
        (1, ("status 1", True)),
        (-signal.SIGKILL, ("SIGKILL", False)),
        (128 + signal.SIGKILL, ("SIGKILL", False)),
        (-signal.SIGTERM, ("SIGTERM", False)),
        (EXIT_LOST, ("status 4", False)),
        (0, ("status 0", False)),
    ],
)
def test_who_is_ended_from_outside_has_not_crashed(status: int, death: tuple[str, bool]) -> None:
    assert death_of(status) == death


def test_a_group_that_lost_a_rank_says_so_by_the_same_status() -> None:
    assert life.EXIT_LOST == EXIT_LOST


@pytest.mark.parametrize("signum", [signal.SIGSEGV, signal.SIGKILL])
def test_it_is_told_where_the_worker_was(address: str, signum: signal.Signals) -> None:
    begun_s = time.monotonic()
    telling = threading.Thread(target=tell_death, args=(address, -signum))
    telling.start()
    while (answer := ask(address))[0] not in TOLD:
        assert time.monotonic() - begun_s < WAIT_S
    telling.join(WAIT_S)
    assert answer == (TOLD[signum is signal.SIGKILL], signum.name)
    socket.create_server(("127.0.0.1", int(address.rpartition(":")[2]))).close()


def test_nobody_who_asks_is_waited_for_only_for_a_while(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(obituary, "MAX_WAIT_S", 0.05)
    tell_death(address, -signal.SIGSEGV)
    with socket.create_server(("127.0.0.1", int(address.rpartition(":")[2]))):
        tell_death(address, -signal.SIGSEGV)  # somebody else's by now


def test_a_supervisor_tells_and_starts_it_again() -> None:
    stop = threading.Event()
    with Supervisor(stop) as supervisor:
        child = supervisor.start(small())
        where = child.wait_ready()["worker"]
        first = child.process
        watching = threading.Thread(target=supervisor.watch, args=(bool,))
        watching.start()
        os.kill(first.pid, signal.SIGSEGV)
        end_s = time.monotonic() + WAIT_S
        while (answer := ask(where))[0] not in TOLD and time.monotonic() < end_s:
            pass
        assert answer == (grpc.StatusCode.ABORTED, "SIGSEGV")
        while child.process is first or not serves(child):
            assert time.monotonic() < end_s
            time.sleep(0.01)
        stop.set()
        watching.join(WAIT_S)


def test_who_dies_again_and_again_after_it_served_waits_and_is_never_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(processes, "MAX_FAILED_STARTS", 0)
    monkeypatch.setattr(obituary, "MAX_WAIT_S", 0.0)
    pauses_s = []
    with Supervisor(threading.Event()) as supervisor:
        child = supervisor.start(small())
        child.wait_ready()
        child.process.kill()
        child.process.wait()
        for _ in range(processes.MAX_DEATHS_AT_ONCE + 7):
            now_s = time.monotonic()
            child.has_served = True
            assert supervisor._bury(child)
            assert child.due_s is not None
            pauses_s.append(child.due_s - now_s)
    at_once, later_s = pauses_s[:-7], pauses_s[-7:]
    assert max(at_once) < 1.0, "it takes some crashes to find out whose fault they are"
    assert [round(pause_s) for pause_s in later_s] == [1, 2, 4, 8, 16, 30, 30]
