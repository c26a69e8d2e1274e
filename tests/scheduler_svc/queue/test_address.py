"""What a URL of Redis says, and what is said of one that is none."""

from __future__ import annotations

import pytest
from redis.asyncio.connection import Connection, UnixDomainSocketConnection

from scheduler_svc.queue.address import parse_address
from scheduler_svc.queue.fresh_certificates import FreshCertificates
from stepserve.process.redaction import redacted
from stepserve.protocol.errors import StepserveError

SENTINELS = (("a", 26379), ("b", 1))


def test_one_server() -> None:
    address = parse_address("redis://user:p%40ss@host:7000/3")
    assert (address.kind, address.connection_class) == ("server", Connection)
    assert address.connection == {
        "username": "user",
        "password": "p@ss",
        "host": "host",
        "port": 7000,
        "db": 3,
    }
    assert parse_address("rediss://host").connection_class is FreshCertificates
    assert parse_address("unix:///run/redis.sock").connection_class is UnixDomainSocketConnection


@pytest.mark.parametrize("scheme", ["redis+sentinel", "redis-sentinel", "rediss+sentinel"])
def test_sentinels(scheme: str) -> None:
    address = parse_address(
        f"{scheme}://:secret@a,b:1/jobs/2?sentinel_password=other&ssl_check_hostname=false"
    )
    assert (address.kind, address.hosts, address.service) == ("sentinel", SENTINELS, "jobs")
    assert address.connection["password"] == "secret"
    assert address.connection["db"] == 2
    assert "host" not in address.connection
    assert address.sentinel == {"sentinel_password": "other"}
    is_encrypted = address.connection_class is FreshCertificates
    assert is_encrypted is (scheme == "rediss+sentinel")


@pytest.mark.parametrize("scheme", ["redis+cluster", "redis-cluster", "rediss-cluster"])
@pytest.mark.parametrize("path", ["", "/", "/0"])
def test_a_cluster(scheme: str, path: str) -> None:
    address = parse_address(f"{scheme}://a,b:1{path}")
    assert (address.kind, address.hosts) == ("cluster", (("a", 6379), ("b", 1)))
    assert address.connection.get("db", 0) == 0


@pytest.mark.parametrize(
    "url",
    [
        "http://host",
        "redis+sentinel://a:26379",
        "redis+sentinel://a:26379/jobs/x",
        "redis+sentinel://a:26379,,b/jobs",
        "redis+sentinel://a:port/jobs",
        "redis+cluster://a/1",
        "redis+cluster://a?sentinel_password=x",
        "redis+sentinel://:sec/ret@a:1/jobs",
        "redis://:sec/re@t@host",
    ],
)
def test_what_is_none_is_said_without_a_password(url: str) -> None:
    with pytest.raises(StepserveError, match="the address of Redis is no") as caught:
        parse_address(url)
    assert "sec" not in str(caught.value)


def test_passwords_of_several_are_not_told() -> None:
    url = "redis+sentinel://user:one@a:1,b:2/jobs?sentinel_password=two"
    assert redacted(url) == "redis+sentinel://user:***@a:1,b:2/jobs?sentinel_password=***"
