"""Processes are started, found again, restarted where they were, and stopped."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from stepserve.local import processes, pulse
from stepserve.local.processes import (
    Child,
    Service,
    ServiceFailed,
    Stopped,
    Supervisor,
    check_port,
)
from stepserve.local.pulse import MAX_FAILURES
from stepserve.local.ready import ready_fields

WAIT_S = 30.0


def small(*flags: str) -> Service:
    return Service("small", ["tests.stepserve.commands.small_service", *flags, "--port=0"])


def wait_until(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.01)


@pytest.fixture
def stop() -> threading.Event:
    return threading.Event()


@pytest.fixture
def supervisor(stop: threading.Event) -> Iterator[Supervisor]:
    with Supervisor(stop) as supervisor:
        yield supervisor


@pytest.fixture
def watching(supervisor: Supervisor, stop: threading.Event) -> Iterator[Callable[[], None]]:
    """Starts to watch in a thread of its own; ends with the test."""
    thread = threading.Thread(target=supervisor.watch, args=(bool,))
    yield thread.start
    stop.set()
    thread.join(WAIT_S)


def serves(child: Child) -> bool:
    host, _, port = child.fields["worker"].partition(":")
    with socket.socket() as client:
        return client.connect_ex((host, int(port))) == 0


def test_a_ready_line_is_read() -> None:
    line = "ready grpc=127.0.0.1:5 model=My model=a  b \n"
    assert ready_fields(line) == {"grpc": "127.0.0.1:5", "model": "My model=a  b "}
    for other in ("", "ready\n", "ready grpc=h:1\n", "already grpc=h:1 model=m\n", "x model=m"):
        assert ready_fields(other) == {}


def test_a_service_is_ready_when_it_says_so(
    supervisor: Supervisor, capfd: pytest.CaptureFixture[str]
) -> None:
    child = supervisor.start(small())
    fields = child.wait_ready()
    assert (fields["blocks"], fields["model"]) == ("3", "My  Model ")
    assert serves(child)
    assert capfd.readouterr().err == "[small] not the ready line\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_models_name_is_read_whatever_the_terminal_can_show(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    assert supervisor.start(small("--odd-name")).wait_ready()["model"] == "naïve 模"


def test_a_service_that_dies_at_its_start_fails(supervisor: Supervisor) -> None:
    child = supervisor.start(small("--dies"))
    with pytest.raises(ServiceFailed, match="small ended with status 7 at start"):
        child.wait_ready()


def test_a_stop_ends_the_wait_for_a_service(stop: threading.Event) -> None:
    with Supervisor(stop) as supervisor:
        child = supervisor.start(small("--stalls"))
        threading.Timer(0.2, stop.set).start()
        with pytest.raises(Stopped):
            child.wait_ready()
        with pytest.raises(Stopped):
            supervisor.start(small())
    assert child.process.poll() == -signal.SIGTERM


def test_a_service_that_ends_with_us_has_not_failed(
    supervisor: Supervisor, stop: threading.Event
) -> None:
    child = supervisor.start(small("--stalls"))

    def end_all() -> None:
        stop.set()
        child.process.kill()

    threading.Timer(0.25, end_all).start()
    with pytest.raises(Stopped):
        child.wait_ready()


def test_a_killed_service_comes_back_where_it_was(
    supervisor: Supervisor, watching: Callable[[], None]
) -> None:
    child = supervisor.start(small())
    child.wait_ready()
    watching()
    first = child.process
    os.kill(first.pid, signal.SIGKILL)
    wait_until(lambda: child.process is not first and serves(child))
    assert supervisor.status() == 0


@pytest.mark.timeout(60)
def test_the_end_of_the_process_before_is_not_taken_for_an_end_of_the_next(
    supervisor: Supervisor,
) -> None:
    before = set(threading.enumerate())
    child = supervisor.start(small())
    [reader] = set(threading.enumerate()) - before
    fields = child.wait_ready()
    # Its output goes on for a while after its death.
    held = os.open(f"/proc/{child.process.pid}/fd/1", os.O_WRONLY)
    child.process.kill()
    child.process.wait()
    child.restart()
    os.close(held)
    reader.join(WAIT_S)
    assert child.wait_ready() == fields


def test_a_service_that_hangs_is_killed_and_comes_back(
    supervisor: Supervisor,
    watching: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(pulse, "INTERVAL_S", 0.02)
    monkeypatch.setattr(pulse, "TIMEOUT_S", 0.2)
    child = supervisor.start(small("--healthy"))
    child.wait_ready()
    watching()
    first = child.process
    wait_until(lambda: child._pulse is not None and child._pulse._has_served)
    os.kill(first.pid, signal.SIGSTOP)
    wait_until(lambda: child.process is not first and serves(child))
    assert first.returncode == -signal.SIGKILL
    assert "small does not answer; it is killed" in capfd.readouterr().err


def test_a_service_that_never_said_how_it_is_is_left_alone(
    supervisor: Supervisor, watching: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulse, "INTERVAL_S", 0.001)
    monkeypatch.setattr(pulse, "TIMEOUT_S", 0.02)
    child = supervisor.start(small())
    child.wait_ready()
    first = child.process
    watching()
    wait_until(lambda: child._pulse is not None and child._pulse._num_failures > MAX_FAILURES)
    assert not child.is_hung
    assert first.poll() is None


def test_a_service_whose_port_was_taken_meanwhile_comes_back_later(
    supervisor: Supervisor, watching: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "MAX_FAILED_STARTS", 100)
    child = supervisor.start(small())
    host, _, port = child.wait_ready()["worker"].partition(":")
    first = child.process
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    with socket.create_server((host, int(port))):
        watching()
        wait_until(lambda: len(child.deaths_s) >= 2)
    wait_until(lambda: child.process.poll() is None and serves(child))


def test_a_service_that_can_not_be_started_any_more_is_given_up(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(processes, "MAX_FAILED_STARTS", 2)
    child = supervisor.start(small())
    host, _, port = child.wait_ready()["worker"].partition(":")
    os.kill(child.process.pid, signal.SIGKILL)
    child.process.wait()
    with socket.create_server((host, int(port))):
        supervisor.watch(bool)
    assert supervisor.status() == 1
    assert "small ended with status 1 at its start, 3 times in a row" in capfd.readouterr().err


def test_a_service_that_does_not_stop_is_killed(
    stop: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "STOP_TIMEOUT_S", 0.3)
    with Supervisor(stop) as supervisor:
        stubborn = supervisor.start(small("--slow-end"))
        stubborn.wait_ready()
    assert stubborn.process.poll() == -signal.SIGKILL


def test_a_taken_port_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        for host in ("127.0.0.1", "0.0.0.0"):
            monkeypatch.setattr(processes, "PORT_PATIENCE_S", 0.0)
            with pytest.raises(ServiceFailed, match=f"can't serve on {host}:{port}: it is in use"):
                check_port(host, port)
        monkeypatch.setattr(processes, "PORT_PATIENCE_S", WAIT_S)
        # Something that is just ending is waited for.
        threading.Timer(0.2, server.close).start()
        check_port("127.0.0.1", port)
    check_port("127.0.0.1", port)
    with pytest.raises(ServiceFailed, match=r"no\.such\.host"):
        check_port("no.such.host.invalid", port)
