"""``/metrics``, ``/livez`` and ``/readyz``: they tell of progress, and bear strange visitors."""

from __future__ import annotations

import asyncio
import http.client
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from stepserve.metrics import server
from stepserve.metrics.exposition import Exposition
from stepserve.metrics.server import MAX_CONNECTIONS, serve_status
from stepserve.metrics.vitals import MAX_SILENCE_S, Vitals
from stepserve.protocol.errors import StepserveError


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def vitals(clock: Clock) -> Vitals:
    return Vitals(clock)


@pytest.fixture
def address(vitals: Vitals) -> Iterator[str]:
    with serve_status("127.0.0.1", 0, vitals, Exposition("stepserve")) as address:
        yield address


def get(address: str, path: str, accept: str = "*/*") -> tuple[int, str]:
    connection = http.client.HTTPConnection(address, timeout=10)
    try:
        connection.request("GET", path, headers={"Accept": accept})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def beat(vitals: Vitals) -> None:
    """One turn of a loop that then stands still."""

    async def turn() -> None:
        beating = asyncio.create_task(vitals.beat())
        await asyncio.sleep(0)
        beating.cancel()

    asyncio.run(turn())


def test_a_process_starts_runs_hangs_and_stops(address: str, vitals: Vitals, clock: Clock) -> None:
    assert get(address, "/livez") == (200, "ok\n"), "one that loads a model lives"
    assert get(address, "/readyz") == (503, "it starts\n")
    beat(vitals)
    assert get(address, "/readyz?verbose") == (200, "ok\n")
    clock.now_s += MAX_SILENCE_S + 0.1
    hung = (503, "its event loop has not turned for 2.6 s\n")
    assert [get(address, path) for path in ("/livez", "/readyz")] == [hung, hung]
    assert clock.now_s <= 3.0, "within 3 s of the last turn"
    beat(vitals)
    assert get(address, "/livez")[0] == 200
    vitals.end()
    assert get(address, "/livez")[0] == 200, "what stops must not be killed"
    assert get(address, "/readyz") == (503, "it stops\n")


def test_the_reasons_of_others_are_told(address: str, vitals: Vitals) -> None:
    beat(vitals)
    stuck, full = [""], [""]
    vitals.require(alive=lambda: stuck[0], ready=lambda: full[0])
    full[0] = "Redis is full"
    assert get(address, "/livez")[0] == 200
    assert get(address, "/readyz") == (503, "Redis is full\n")
    stuck[0] = "a step hangs"
    assert get(address, "/livez") == get(address, "/readyz") == (503, "a step hangs\n")


def test_metrics_and_what_is_not_there(address: str) -> None:
    status, text = get(address, "/metrics", "application/openmetrics-text;version=1.0.0")
    assert status == 200
    assert "process_cpu_seconds_total" in text
    assert get(address, "/secret")[0] == 404
    assert get(address, "/") == (200, "/metrics\n/livez\n/readyz\n")


def test_idle_connections_are_bounded_and_cut_off(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, _, port = address.rpartition(":")
    with ExitStack() as stack:
        idle = [
            stack.enter_context(socket.create_connection((host, int(port)), timeout=10))
            for _ in range(MAX_CONNECTIONS)
        ]
        for connection in idle:
            connection.sendall(b"GET /livez HTTP/1.1\r\nX: ")
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            get(address, "/livez")
        monkeypatch.setattr(server, "MAX_REQUEST_S", 0.0)
        assert [connection.recv(1) for connection in idle] == [b""] * MAX_CONNECTIONS
    monkeypatch.undo()
    assert get(address, "/livez")[0] == 200


def test_a_taken_port_is_said(address: str, vitals: Vitals) -> None:
    port = int(address.rpartition(":")[2])
    with (
        pytest.raises(StepserveError, match=f"can't serve metrics on 127.0.0.1:{port}"),
        serve_status("127.0.0.1", port, vitals, Exposition("stepserve")),
    ):
        pass
