"""What others can reach needs keys and encryption, or a word that it does not."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from scheduler_svc.queue.address import parse_address
from scheduler_svc.settings import SchedulerSettings
from stepserve.protocol.errors import StepserveError
from stepserve.tls.exposure import is_loopback
from stepserve.tls.fleet import FleetCaller
from stepserve.tls.fleet_settings import FleetSettings
from stepserve.tls.redis import RedisSettings
from stepserve.tls.server import server_tls
from stepserve.tls.token import Token
from tests.certificates import Authority
from worker_svc.settings import WorkerSettings


@pytest.mark.parametrize(
    ("host", "is_ours"),
    [("127.0.0.1", True), ("127.1.2.3", True), ("localhost", True), ("::1", True), ("[::1]", True),
     ("0.0.0.0", False), ("::", False), ("10.0.0.5", False), ("example.com", False), ("", False)],
)  # fmt: skip
def test_loopback(host: str, is_ours: bool) -> None:
    assert is_loopback(host) is is_ours


def scheduler(**more: object) -> SchedulerSettings:
    return SchedulerSettings(model="m", **more)


def worker(**more: object) -> WorkerSettings:
    return WorkerSettings(model="m", host="0.0.0.0", **more)


CERTIFICATE = {"tls_cert": "c", "tls_key": "k"}
FLEET = {"fleet_cert": "c", "fleet_key": "k"}


@pytest.mark.parametrize(
    ("given", "lacks"),
    [({}, "no API key asked for and no TLS"),
     ({"api_keys_file": "f"}, "no TLS"),
     (CERTIFICATE, "no API key asked for"),
     ({**CERTIFICATE, "api_keys_file": "f"}, ""),
     ({**CERTIFICATE, "tls_client_ca": "a"}, "")],
)  # fmt: skip
def test_clients_are_served_to_others_only_with_keys_and_tls(
    given: dict[str, str], lacks: str, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler(**given).check_host("127.0.0.1")
    if lacks:
        with pytest.raises(StepserveError, match=f"{lacks}: .*--insecure"):
            scheduler(**given).check_host("0.0.0.0")
    with caplog.at_level(logging.WARNING):
        scheduler(**given, insecure=True).check_host("0.0.0.0")
    assert (lacks in caplog.text) if lacks else (not caplog.text)


@pytest.mark.parametrize(
    ("given", "lacks"),
    [({}, "no token or certificate asked for and no TLS"),
     ({"fleet_token_file": "t"}, "no TLS"),
     (FLEET, "no token or certificate asked for"),
     ({**FLEET, "fleet_token_file": "t"}, ""),
     ({**FLEET, "fleet_ca": "a"}, "")],
)  # fmt: skip
def test_a_worker_is_served_to_others_only_where_it_knows_them(
    given: dict[str, str], lacks: str
) -> None:
    worker(**given, insecure=True).check_host()
    if not lacks:
        worker(**given).check_host()
        return
    with pytest.raises(StepserveError, match=f"{lacks}: .*--insecure"):
        worker(**given).check_host()


@pytest.mark.parametrize("wrong", [{"tls_cert": "c"}, {"tls_key": "k"}])
def test_halves_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(StepserveError, match="--tls-cert and --tls-key go together"):
        scheduler(**wrong).tls_files.read()


def test_a_fleet_needs_its_authority(tmp_path: Path) -> None:
    ours = Authority(tmp_path).identity("stepserve-worker")
    pair = {"fleet_cert": ours.certificate, "fleet_key": ours.key}
    with pytest.raises(StepserveError, match="--fleet-ca at a scheduler"):
        FleetCaller(FleetSettings(**pair))
    with pytest.raises(StepserveError, match="--fleet-ca needs --fleet-cert and --fleet-key"):
        server_tls(FleetSettings(fleet_ca=ours.authority).fleet_files)


def test_a_token_is_read_again_and_compared_whole(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("first-token-of-all\n")
    token = Token(str(path))
    assert token.authorization == "Bearer first-token-of-all"
    assert token.is_shown("Bearer first-token-of-all")
    for wrong in ("", "Bearer ", "first-token-of-all", "Bearer first-token-of-al", b"\xff"):
        assert not token.is_shown(wrong)
    path.write_text("another-token-here")
    assert token.is_shown("Bearer another-token-here")
    path.write_text("short")
    assert token.is_shown("Bearer another-token-here")


@pytest.mark.parametrize(
    "content", ["", "short", "two lines\nof a long token", "ünglücklicher-token"]
)
def test_what_is_no_token_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(content)
    with pytest.raises(StepserveError, match="token"):
        Token(str(tmp_path / "token"))


def test_the_address_of_redis_may_be_in_a_file_with_certificates_beside(tmp_path: Path) -> None:
    ours = Authority(tmp_path / "a b").identity("redis")
    path = tmp_path / "url"
    path.write_text("rediss://user:p%40ss@redis:6379/1\n")
    given = RedisSettings(
        redis_url_file=str(path), redis_ca=ours.authority,
        redis_cert=ours.certificate, redis_key=ours.key,
    )  # fmt: skip
    address = given.redis_address()
    assert address.startswith("rediss://user:p%40ss@redis:6379/1?ssl_certfile=")
    assert "a%20b" in address
    several = RedisSettings(redis_url="rediss+sentinel://a,b/jobs/1", redis_ca=ours.authority)
    assert parse_address(several.redis_address()).connection["ssl_ca_certs"] == ours.authority
    with pytest.raises(StepserveError, match="not both"):
        RedisSettings(redis_url="redis://x", redis_url_file=str(path)).redis_address()
    with pytest.raises(StepserveError, match="rediss://"):
        RedisSettings(redis_url="redis://x", redis_ca=ours.authority).redis_address()
