"""gRPC over TLS: who is believed on both sides, and certificates that come while it is served."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from stepserve.protocol.errors import StepserveError
from stepserve.tls.binding import bind
from stepserve.tls.client import channel_credentials
from stepserve.tls.identity import Identity
from stepserve.tls.server import ServerTls
from tests.certificates import Authority

WAIT_S = 20.0


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ours")


@asynccontextmanager
async def serving(identity: Identity) -> AsyncIterator[str]:
    """Serve health over TLS; yield its port."""
    server = grpc.aio.server()
    servicer = health.aio.HealthServicer()
    await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    address = bind(server, "127.0.0.1", 0, ServerTls(identity).credentials())
    await server.start()
    try:
        yield address.rpartition(":")[2]
    finally:
        await server.stop(None)


async def is_answered(port: str, credentials: grpc.ChannelCredentials | None) -> bool:
    target = f"localhost:{port}"
    channel = (
        grpc.aio.insecure_channel(target)
        if credentials is None
        else grpc.aio.secure_channel(target, credentials)
    )
    async with channel:
        call = health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(), timeout=WAIT_S
        )
        code = await call.code()
    assert code in (grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE)
    return code is grpc.StatusCode.OK


async def test_only_who_believes_the_authority_is_served(
    authority: Authority, tmp_path: Path
) -> None:
    other = Authority(tmp_path / "other")
    async with serving(authority.identity("localhost", authority="")) as port:
        assert await is_answered(port, channel_credentials(authority.path))
        assert not await is_answered(port, channel_credentials(other.path))
        assert not await is_answered(port, None)


async def test_a_certificate_for_another_name_is_not_believed(authority: Authority) -> None:
    async with serving(authority.identity("elsewhere.example", authority="")) as port:
        assert not await is_answered(port, channel_credentials(authority.path))


async def test_mutual_tls_asks_for_a_certificate_of_the_authority(
    authority: Authority, tmp_path: Path
) -> None:
    ours = authority.identity("client.example")
    strangers = Authority(tmp_path / "other").identity("client.example")
    async with serving(authority.identity("localhost")) as port:
        for shown, is_known in ((ours, True), (strangers, False), (Identity(), False)):
            credentials = channel_credentials(authority.path, shown.certificate, shown.key)
            assert await is_answered(port, credentials) is is_known


def spoil(path: str) -> None:
    Path(path).write_text("nonsense")


async def test_certificates_are_renewed_while_it_is_served(
    authority: Authority, tmp_path: Path
) -> None:
    """Also by another authority; what is of no use leaves the one before."""
    identity = authority.identity("localhost", authority="")
    other = Authority(tmp_path / "other")
    async with serving(identity) as port:
        assert await is_answered(port, channel_credentials(authority.path))
        spoil(identity.key)
        assert await is_answered(port, channel_credentials(authority.path))
        other.renew(Path(identity.certificate).parent, "localhost")
        assert await is_answered(port, channel_credentials(other.path))
        assert not await is_answered(port, channel_credentials(authority.path))


@pytest.mark.parametrize("spoil", ["certificate", "key", "authority"])
@pytest.mark.parametrize("how", ["gone", "empty", "nonsense"])
def test_files_of_no_use_are_an_error_that_names_them(
    spoil: str, how: str, authority: Authority
) -> None:
    identity = authority.identity("localhost")
    path = Path(getattr(identity, spoil))
    if how == "gone":
        path.unlink()
    else:
        path.write_text("" if how == "empty" else "nonsense")
    with pytest.raises(StepserveError) as told:
        ServerTls(identity)
    assert str(path) in str(told.value)


def test_a_key_of_another_certificate_is_an_error(authority: Authority) -> None:
    one, other = authority.identity("one.example"), authority.identity("other.example")
    with pytest.raises(StepserveError, match="can't be used"):
        ServerTls(Identity(one.certificate, other.key))
    with pytest.raises(StepserveError, match="go together"):
        channel_credentials("", one.certificate)


def test_a_key_with_a_password_is_refused_and_not_asked_for(authority: Authority) -> None:
    from cryptography.hazmat.primitives import serialization

    identity = authority.identity("localhost")
    path = Path(identity.key)
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    hidden = serialization.BestAvailableEncryption(b"password")
    form = serialization.PrivateFormat.PKCS8
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, hidden))
    with pytest.raises(StepserveError, match="encrypted"):
        ServerTls(identity)


def test_a_context_is_made_again_only_where_files_changed(authority: Authority) -> None:
    identity = authority.identity("localhost")
    tls = ServerTls(identity)
    assert tls.context().verify_mode is ssl.CERT_REQUIRED
    assert tls.new_context() is None
    authority.renew(Path(identity.certificate).parent, "localhost")
    assert tls.new_context() is not None
    assert tls.new_context() is None
    Path(identity.certificate).write_text("nonsense")
    assert tls.new_context() is None


async def test_many_connections_renew_once(authority: Authority) -> None:
    identity = authority.identity("localhost", authority="")
    async with serving(identity) as port:
        authority.renew(Path(identity.certificate).parent, "localhost")
        credentials = channel_credentials(authority.path)
        assert all(await asyncio.gather(*(is_answered(port, credentials) for _ in range(8))))
