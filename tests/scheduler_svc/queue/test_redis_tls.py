"""Redis over TLS, as a user of its own who may do no more than docs/redis.md says."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis import Redis

from scheduler_svc.queue import JobQueue, Quota
from stepserve.protocol.errors import Unavailable
from stepserve.tls.identity import Identity
from stepserve.tls.redis import RedisSettings
from tests.certificates import Authority
from tests.scheduler_svc.queue.build import APPLIED, STOP, claim_ids, lease_on, row, spec, within

DOCUMENT = Path(__file__).resolve().parents[3] / "docs/redis.md"
USER, PASSWORD = "stepserve", "a secret"


class TlsFront:
    """Speaks TLS before a Redis at a Unix socket, as stunnel does; clients must be known to it."""

    def __init__(self, redis_url: str, identity: Identity) -> None:
        self._path = redis_url.removeprefix("unix://").partition("?")[0].rpartition("@")[2]
        self._identity = identity
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Serve with the certificates as they are now, on the port that it had before."""
        context = self._identity.server_context()
        server = await asyncio.start_server(self._forward, "127.0.0.1", self.port, ssl=context)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            server.close()
            for writer in list(self._writers):
                writer.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, downstream = await asyncio.open_unix_connection(self._path)
        self._writers |= {writer, downstream}
        with contextlib.suppress(OSError):
            await asyncio.gather(_copy(reader, downstream), _copy(upstream, writer))
        for each in (writer, downstream):
            each.transport.abort()
            self._writers.discard(each)


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while data := await source.read(65536):
        sink.write(data)
        await sink.drain()
    sink.transport.abort()


def documented_rules() -> list[str]:
    """The rules of the user, out of the page."""
    found = re.search(
        r"^ACL SETUSER stepserve on >PASSWORD (.*)$", DOCUMENT.read_text(), re.MULTILINE
    )
    assert found
    return found[1].split()


@pytest.fixture
def user(redis: Redis) -> None:
    redis.execute_command(
        "ACL", "SETUSER", USER, "reset", "on", f">{PASSWORD}", *documented_rules()
    )


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ours")


def address(front: TlsFront, ours: Identity, authority: str) -> str:
    url = f"rediss://{USER}:a%20secret@localhost:{front.port}/0"
    return RedisSettings(
        redis_url=url, redis_ca=authority, redis_cert=ours.certificate, redis_key=ours.key
    ).redis_address()


@pytest.mark.usefixtures("user")
async def test_all_that_a_service_does_is_done_over_tls_by_a_user_of_few_rights(
    redis_url: str, model: str, authority: Authority
) -> None:
    front = TlsFront(redis_url, authority.identity("localhost"))
    ours = authority.identity("scheduler.example")
    async with front.serving(), JobQueue(address(front, ours, authority.path), model) as queue:
        await queue.check_server()
        await queue.adopt_order()
        lease = await lease_on(queue)
        quota = Quota("aaaaaa", requests_per_minute=5)
        job_id = (await queue.submit(spec(idempotency_key="x"), quota=quota)).job_id
        assert await claim_ids(queue, lease, 1) == [job_id]
        assert await queue.commit(lease, [row(job_id, 0, [1], STOP)]) == [APPLIED]
        await queue.sweep()
        await queue.memory()
        assert [job.spec.job_id for job in await queue.jobs()] == [job_id]
        async with within():
            async for _ in queue.follow():
                break
        await queue.shelf("file", str).put("f", "record", ttl_s=60)
        assert await queue.forget(job_id)
    for forbidden in (("FLUSHALL",), ("CONFIG", "SET", "save", ""), ("GET", "elsewhere")):
        with Redis.from_url(redis_url) as plain:
            plain.execute_command("AUTH", USER, PASSWORD)
            with pytest.raises(Exception, match=r"(?i)no permission|NOPERM"):
                plain.execute_command(*forbidden)


@pytest.mark.usefixtures("user")
async def test_who_is_not_known_on_either_side_gets_nowhere(
    redis_url: str, model: str, authority: Authority, tmp_path: Path
) -> None:
    other = Authority(tmp_path / "other")
    front = TlsFront(redis_url, authority.identity("localhost"))
    cases = [
        (other.identity("scheduler.example"), authority.path),
        (authority.identity("scheduler.example"), other.path),
    ]
    async with front.serving():
        for ours, believed in cases:
            async with JobQueue(address(front, ours, believed), model) as queue:
                with pytest.raises(Unavailable):
                    await queue.ping()


@pytest.mark.usefixtures("user")
async def test_certificates_of_another_authority_are_taken_without_a_restart(
    redis_url: str, model: str, authority: Authority, tmp_path: Path
) -> None:
    """As when all are renewed at once: the next connection has what the files hold then."""
    other = Authority(tmp_path / "other")
    servers, ours = authority.identity("localhost"), authority.identity("scheduler.example")
    front = TlsFront(redis_url, servers)
    async with front.serving():
        """It has a port from now on."""
    async with JobQueue(address(front, ours, authority.path), model) as queue:
        async with front.serving():
            await queue.ping()
        for identity, name in ((servers, "localhost"), (ours, "scheduler.example")):
            other.renew(Path(identity.certificate).parent, name)
        authority.replace_with(other)
        async with front.serving():
            await queue.ping()
