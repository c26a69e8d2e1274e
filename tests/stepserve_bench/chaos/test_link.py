"""A link forwards, and does what a network does to connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from stepserve_bench.chaos.link import Link

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1000):
        writer.write(data)
        await writer.drain()
    writer.close()


@pytest.fixture
async def link() -> AsyncIterator[Link]:
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    async with Link(f"{host}:{port}") as link:
        yield link
    server.close()


async def connected(link: Link) -> Connection:
    host, _, port = link.address.rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def sent(connection: Connection, data: bytes) -> bytes:
    connection[1].write(data)
    return await asyncio.wait_for(connection[0].readexactly(len(data)), 10)


async def test_all_comes_through_in_order(link: Link) -> None:
    one, other = await connected(link), await connected(link)
    data = bytes(range(256)) * 4000
    assert await asyncio.gather(sent(one, data), sent(other, data[::-1])) == [data, data[::-1]]
    one[1].close()


async def test_a_cut_ends_connections_and_takes_new_ones(link: Link) -> None:
    before = await connected(link)
    assert await sent(before, b"x") == b"x"
    link.cut()
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await sent(before, b"y")
    assert await sent(await connected(link), b"z") == b"z"


async def test_delayed_is_late_and_whole(link: Link) -> None:
    connection = await connected(link)
    clock = asyncio.get_running_loop().time
    begin_s = clock()
    async with link.delayed(0.05):
        assert await sent(connection, b"late") == b"late"
    assert clock() - begin_s >= 0.1
    assert await sent(connection, b"again") == b"again"


async def test_nothing_is_lost_in_a_hole(link: Link) -> None:
    connection = await connected(link)
    async with link.stopped():
        coming = asyncio.create_task(sent(connection, b"held"))
        new = await connected(link)
        newly = asyncio.create_task(sent(new, b"new"))
        done, _ = await asyncio.wait((coming, newly), timeout=0.1)
        assert not done
    assert (await coming, await newly) == (b"held", b"new")


async def test_who_is_not_there_ends_the_connection() -> None:
    async with Link("127.0.0.1:1") as link:
        reader, _ = await connected(link)
        assert await reader.read() == b""


async def test_a_socket_is_a_target_too(tmp_path: Path) -> None:
    server = await asyncio.start_unix_server(echo, tmp_path / "s")
    async with Link(str(tmp_path / "s")) as link:
        reader, writer = await asyncio.open_connection(*link.address.split(":"))
        writer.write(b"here")
        assert await reader.readexactly(4) == b"here"
        writer.close()
    server.close()
