"""HTTP over TLS, and certificates that come while it is served; in both loops that serve it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

from scheduler_svc.http import listener
from scheduler_svc.http.listener import Listener
from stepserve.tls.identity import Identity
from stepserve.tls.server import ServerTls
from tests.certificates import Authority

WAIT_S = 20.0
NEW_LOOP = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


class Echo(asyncio.Protocol):
    """Says who it is once connected, and repeats what it hears."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport  # uvloop's is of no common class
        self._transport.write(b"hello")

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)


@asynccontextmanager
async def listening(identity: Identity) -> AsyncIterator[int]:
    """Listen over TLS; yield the port."""
    made = Listener(Echo, ServerTls(identity))
    address = await made.open("127.0.0.1", 0)
    renewing = asyncio.create_task(made.run())
    try:
        yield int(address.rpartition(":")[2])
    finally:
        renewing.cancel()
        made.close()
        await asyncio.gather(renewing, return_exceptions=True)


async def connected(
    port: int, authority: str, shown: Identity | None = None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
    """A connection, None where one side does not believe the other."""
    context = ssl.create_default_context(cafile=authority)
    if shown is not None:
        context.load_cert_chain(shown.certificate, shown.key)
    try:
        async with asyncio.timeout(WAIT_S):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", port, ssl=context, server_hostname="localhost"
            )
            if await reader.read(5) != b"hello":
                return None
    except (ssl.SSLError, ConnectionError):
        return None
    return reader, writer


async def echoes(connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None) -> bool:
    assert connection is not None
    reader, writer = connection
    writer.write(b"again")
    async with asyncio.timeout(WAIT_S):
        return await reader.read(5) == b"again"


async def _certificates_are_renewed(tmp_path: Path) -> None:
    ours, other = Authority(tmp_path / "ours"), Authority(tmp_path / "other")
    identity = ours.identity("localhost", authority="")
    async with listening(identity) as port:
        before = await connected(port, ours.path)
        assert await echoes(before)
        assert await connected(port, other.path) is None
        other.renew(Path(identity.certificate).parent, "localhost")
        async with asyncio.timeout(WAIT_S):
            while (after := await connected(port, other.path)) is None:
                await asyncio.sleep(0.02)
        assert await connected(port, ours.path) is None
        # Who was there before goes on.
        assert await echoes(before)
        assert await echoes(after)


async def _clients_show_a_certificate(tmp_path: Path) -> None:
    ours, other = Authority(tmp_path / "ours"), Authority(tmp_path / "other")
    async with listening(ours.identity("localhost")) as port:
        assert await connected(port, ours.path) is None
        assert await connected(port, ours.path, other.identity("client.example")) is None
        assert await echoes(await connected(port, ours.path, ours.identity("client.example")))


@pytest.mark.parametrize("loop", NEW_LOOP)
@pytest.mark.parametrize("check", [_certificates_are_renewed, _clients_show_a_certificate])
def test_tls(
    loop: str, check: Callable[[Path], asyncio.Future[None]], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(listener, "LOOK_INTERVAL_S", 0.02)
    with asyncio.Runner(loop_factory=NEW_LOOP[loop]) as runner:
        runner.run(check(tmp_path))  # type: ignore[arg-type]
