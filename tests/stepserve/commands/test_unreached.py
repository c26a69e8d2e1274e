"""Every client command says soon, and in plain words, that no service answers, and what to do."""

from __future__ import annotations

import asyncio
import importlib
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stepserve.cli import COMMANDS
from stepserve.client.aio import AsyncClient
from stepserve.client.blocking import Client
from stepserve.client.errors import Unreached
from stepserve.client.unreached import why_unreached
from stepserve.commands import connection
from stepserve.commands.connection import Targeted, Waiting
from stepserve.protocol.errors import Unavailable
from tests.scheduler_svc.api.served import Served
from tests.stepserve.commands.conftest import command
from tests.stepserve.commands.test_command_line import NEEDED, exit_status

# What the requirement gives a command, its own start included.
SOON_S = 2.0


def client_commands() -> list[str]:
    """Return the commands that ask a service, by what their classes are."""
    found = []
    for name, (place, _) in COMMANDS.items():
        module, _, attribute = place.partition(":")
        if issubclass(getattr(importlib.import_module(module), attribute), Targeted):
            found.append(name)
    return found


@contextmanager
def closed_port(*, listens: bool) -> Iterator[str]:
    """Yield an address where nothing listens, or what does never says a word."""
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        if listens:
            mute.listen()
        yield f"127.0.0.1:{mute.getsockname()[1]}"


def names_in(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


def test_the_client_commands_are_those_that_are_no_service() -> None:
    asking = "generate chat submit attach get jobs workers cancel delete batch"
    assert client_commands() == asking.split()


@pytest.mark.parametrize("listens", [False, True])
@pytest.mark.parametrize("name", client_commands())
async def test_nothing_in_reach_is_said_and_what_to_do(
    name: str, listens: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(connection, "REACH_TIMEOUT_S", 0.1)
    monkeypatch.setattr(connection, "REFUSED_TIMEOUT_S", 0.02)
    (tmp_path / "in").write_text('{"prompt": "a"}\n')
    needed = [str(tmp_path / a) if name == "batch" else a for a in NEEDED.get(name, [])]
    why = "it does not answer" if listens else "nothing listens there"
    with closed_port(listens=listens) as target:
        expected = rf"no service answers at {target}: {why}\. Start one with `stepserve up"
        with pytest.raises(Unreached, match=expected):
            await command(name, *needed, f"--target={target}")
    assert names_in(tmp_path) == ["in"]


@pytest.mark.parametrize("listens", [False, True])
async def test_it_is_said_soon(listens: bool) -> None:
    """Work is told in CPU time, of which a busy machine makes no more."""
    begun_s = time.process_time()
    with closed_port(listens=listens) as target, pytest.raises(Unreached):
        await command("workers", f"--target={target}")
    work_s = time.process_time() - begun_s
    assert connection.REACH_TIMEOUT_S + work_s < SOON_S
    assert connection.REFUSED_TIMEOUT_S < connection.REACH_TIMEOUT_S


async def test_what_speaks_another_protocol_is_no_service() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(16)
        writer.write(b"HTTP/1.0 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        for options in ([], ["--tls"]):
            with pytest.raises(Unreached, match=r"does not speak gRPC|no TLS was agreed on"):
                await command("jobs", f"--target=localhost:{port}", *options)


async def test_what_is_there_is_reached(served: Served) -> None:
    with Client(served.address) as client:
        await asyncio.to_thread(client.reach, 20.0)
    async with AsyncClient(served.address) as other:
        await other.reach(20.0)


@pytest.mark.parametrize("listens", [False, True])
async def test_the_asynchronous_client_says_it_too(listens: bool) -> None:
    with closed_port(listens=listens) as target:
        async with AsyncClient(target) as client:
            with pytest.raises(Unreached, match="does not answer" if listens else "nothing"):
                await client.reach(0.2, 0.02)


ALL = "failed to connect to all addresses; last error: "
LOCAL = "ipv4:127.0.0.1:1: "


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (
            f"{ALL}UNKNOWN: {LOCAL}Failed to connect to remote host: Connection refused",
            "nothing listens there",
        ),
        (
            f"{ALL}UNKNOWN: {LOCAL}connection attempt timed out before receiving SETTINGS frame",
            "it does not answer",
        ),
        (f"{ALL}UNAVAILABLE: {LOCAL}Socket closed", "it closed the connection"),
        (
            f"{ALL}UNAVAILABLE: {LOCAL}Failed parsing HTTP/2 (Expected SETTINGS frame as the "
            "first frame, got frame type 79)",
            "what listens there does not speak gRPC, or only over TLS",
        ),
        (f"{ALL}UNKNOWN: {LOCAL}Tls handshake failed (TSI_PROTOCOL)", "no TLS was agreed on"),
        (
            "errors resolving x:1: [field:hostname lookup error:address lookup failed for x:1: "
            "Domain name not found]",
            "there is no address of that name",
        ),
        ("Socket closed", "it closed the connection"),
        ("recvmsg:Connection reset by peer", "it closed the connection"),
        ("GOAWAY received", "it closed the connection"),
        ("keepalive watchdog timeout", "the connection broke"),
        ("Redis does not answer: Connection refused", ""),
        ("no worker is here", ""),
    ],
)
def test_grpcs_words_are_told_in_plain_ones(text: str, why: str) -> None:
    assert why_unreached(text) == why


def test_a_wait_is_said_once_each_time(capsys: pytest.CaptureFixture[str]) -> None:
    """Where Redis is away, or a service that was there, by one call or by a thousand."""
    now_s = 0.0
    waiting, away = Waiting(lambda: now_s), Unavailable("Redis does not answer")
    for since_s, until_s in ((0.0, 30.0), (100.0, 100.5), (200.0, 230.0)):
        for tenth in range(int(10 * (until_s - since_s))):
            now_s = since_s + tenth / 10
            waiting(away, now_s - since_s)
            waiting(away, max(0.0, now_s - since_s - 0.5))
    told = "stepserve: Redis does not answer; trying again for a minute ...\n"
    assert capsys.readouterr().err == told * 2


@pytest.mark.parametrize("target", ["localhost", "http://localhost:8000", "a:b", "a:1,b", ":1"])
def test_a_target_without_a_port_is_refused(
    target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_status("jobs", f"--target={target}") == 2
    assert "is not HOST:PORT; the port is gRPC's" in capsys.readouterr().err
