"""Who is let in, as whom, and what of a request is theirs to say."""

from __future__ import annotations

from pathlib import Path

import pytest

from scheduler_svc.access.api_key import ApiKey, new_key
from scheduler_svc.access.caller import LATER_PRIORITY, Caller
from scheduler_svc.access.guard import Guard
from scheduler_svc.access.key_file import add_key, remove_key
from scheduler_svc.access.keyring import Keyring
from stepserve.protocol.errors import Forbidden, Unauthenticated, Unavailable
from stepserve.protocol.inference import Request


def key_of(tenant: str = "a", **fields: object) -> ApiKey:
    return new_key(tenant, **fields)[1]


def caller(tenant: str = "a", **fields: object) -> Caller:
    return Caller(tenant, key_of(tenant, **fields))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_a_key_says_whose_it_is(scheme: str, path: Path) -> None:
    secret, key = new_key("a")
    add_key(path, key)
    found = Guard.of(str(path)).caller(f"{scheme} {secret}")
    assert (found.tenant, found.key) == ("a", key)


@pytest.mark.parametrize(
    "said", ["", "Bearer", "Bearer ", "{}", "Basic {}", "Bearer x{}", "Bearer {} x"]
)
def test_what_is_no_key_lets_nobody_in_and_is_not_repeated(said: str, path: Path) -> None:
    secret, key = new_key("a")
    add_key(path, key)
    with pytest.raises(Unauthenticated) as told:
        Guard.of(str(path)).caller(said.format(secret))
    assert secret not in str(told.value)


def test_without_keys_everybody_is_believed() -> None:
    anybody = Guard.of("").caller("Bearer whatever")
    assert anybody == Caller()
    assert anybody.signed(Request(tenant="b", priority=10)) == Request(tenant="b", priority=10)
    assert anybody.speaking_for("b") == Caller("b")
    assert anybody.owns("b")


def test_a_key_s_tenant_is_the_request_s() -> None:
    assert caller("a").signed(Request()).tenant == "a"
    assert caller("a").signed(Request(tenant="a")).tenant == "a"
    with pytest.raises(Forbidden, match="not of tenant 'b'") as told:
        caller("a").signed(Request(tenant="b"))
    assert told.value.field == "tenant"
    with pytest.raises(Forbidden):
        caller("a").speaking_for("b")


def test_an_operator_names_whom_it_likes(path: Path) -> None:
    secret, key = new_key("ops", is_operator=True)
    add_key(path, key)
    operator = Guard.of(str(path)).caller(f"Bearer {secret}")
    assert operator.owns("a")
    assert operator.signed(Request(tenant="b")).tenant == "b"
    assert operator.speaking_for("b").tenant == "b"


def test_a_priority_is_as_high_as_the_key_allows() -> None:
    low = caller(max_priority=-2)
    assert low.priority(-5) == -5
    assert low.priority(0) == -2
    with pytest.raises(Forbidden, match="at most -2") as told:
        low.priority(-1)
    assert told.value.field == "priority"
    assert caller().priority(10) == 10


def test_the_quota_is_the_key_s() -> None:
    bounds = {"requests_per_minute": 1, "tokens_per_minute": 2, "max_jobs": 3, "weight": 4.0}
    quota = caller(**bounds).quota
    assert quota is not None
    assert {name: getattr(quota, name) for name in bounds} == bounds
    assert Caller("a").quota is None


def test_what_is_done_later_has_the_key_that_it_was_asked_with(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler_svc.access.keyring.LOOK_INTERVAL_S", 0.0)
    _, key = new_key("a")
    add_key(path, key)
    guard = Guard(Keyring(str(path)))
    assert guard.later(key.key_id, "a") == Caller("a", key, LATER_PRIORITY)
    assert guard.later("", "before there were keys").key is None
    remove_key(path, key.key_id)
    with pytest.raises(Unauthenticated, match="not known any more"):
        guard.later(key.key_id, "a")


def test_what_is_done_later_waits_for_a_key_that_came_elsewhere_first(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replica is told of a new key when its file comes there."""
    monkeypatch.setattr("scheduler_svc.access.keyring.LOOK_INTERVAL_S", 0.0)
    add_key(path, key_of("b"))
    guard = Guard(Keyring(str(path)))
    _, key = new_key("a")
    with pytest.raises(Unavailable, match="not known here yet"):
        guard.later(key.key_id, "a")
    add_key(path, key)
    assert guard.later(key.key_id, "a").key == key
    remove_key(path, key.key_id)
    with pytest.raises(Unauthenticated):
        guard.later(key.key_id, "a")
    with pytest.raises(Unavailable):
        guard.later("another", "a")
    monkeypatch.setattr("scheduler_svc.access.keyring.COMES_WITHIN_S", 0.0)
    with pytest.raises(Unauthenticated):
        guard.later("another", "a")


def test_what_is_done_later_has_as_much_of_its_usual_priority_as_the_key_allows(
    path: Path,
) -> None:
    _, low = new_key("a", max_priority=-8)
    _, high = new_key("a")
    for key in (low, high):
        add_key(path, key)
    guard = Guard.of(str(path))
    assert guard.later(low.key_id, "a").priority(LATER_PRIORITY) == -8
    assert guard.later(high.key_id, "a").priority(LATER_PRIORITY) == LATER_PRIORITY
    with pytest.raises(Forbidden):
        guard.later(low.key_id, "a").priority(-7)
