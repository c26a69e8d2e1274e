"""Keys are kept as digests, in a file that is whole at every moment and read when it changes."""

from __future__ import annotations

import json
import logging
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from scheduler_svc.access import keyring
from scheduler_svc.access.api_key import MAX_KEY_CHARS, ApiKey, digest_of, new_key
from scheduler_svc.access.key_file import BadKeyFile, add_key, read_keys, remove_key
from scheduler_svc.access.keyring import Keyring


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@pytest.fixture(autouse=True)
def _looks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyring, "LOOK_INTERVAL_S", 0.0)


def made(path: Path, tenant: str = "t", **fields: object) -> tuple[str, ApiKey]:
    """A key, as it is shown and as it is kept, in the file."""
    secret, key = new_key(tenant, **fields)
    add_key(path, key)
    return secret, key


def test_the_file_holds_no_key_and_is_nobody_else_s(path: Path) -> None:
    secret, key = made(path)
    assert secret not in path.read_text()
    assert secret.split("-", 3)[3] not in path.read_text()
    assert key.sha256 == digest_of(secret)
    assert key.key_id in secret
    assert path.stat().st_mode & 0o777 == 0o600
    assert sorted(os.listdir(path.parent)) == [path.name]


def test_the_mode_of_a_file_stays(path: Path) -> None:
    made(path)
    path.chmod(0o640)
    made(path)
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_key_comes_back_as_it_was(path: Path) -> None:
    _, plain = made(path)
    bounds = {"requests_per_minute": 5, "tokens_per_minute": 6, "max_jobs": 7, "max_priority": -1}
    _, bounded = made(path, "other", weight=2.5, is_operator=True, **bounds)
    assert read_keys(path) == (plain, bounded)
    remove_key(path, plain.key_id)
    assert read_keys(path) == (bounded,)


def test_removing_what_is_not_there_is_an_error(path: Path) -> None:
    with pytest.raises(BadKeyFile, match="can't be read: No such file"):
        remove_key(path, "aaaaaa")
    made(path)
    with pytest.raises(BadKeyFile, match="has no key 'aaaaaa'"):
        remove_key(path, "aaaaaa")


@pytest.mark.parametrize(
    "wrong",
    [{"weight": 0}, {"requests_per_minute": -1}, {"max_priority": 11}, {"tenant": ""},
     {"tenant": "t" * 129}],
)  # fmt: skip
def test_what_is_out_of_bounds_is_no_key(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        new_key(**{"tenant": "t", **wrong})


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "is no file of API keys"),
        ("[]", "is no file of API keys"),
        ('{"keys": 5}', "is no file of API keys"),
        ("[" * 100_000, "is no file of API keys"),
        ('{"keys": [{"tenant": "private words"}]}', "key 1: key_id: Field required"),
        ('{"keys": [{"keyid": "private words"}]}', "key 1"),
    ],
)
def test_what_is_no_file_of_keys_is_told_without_quoting_it(
    content: str, problem: str, path: Path
) -> None:
    path.write_text(content)
    with pytest.raises(BadKeyFile, match=problem) as told:
        read_keys(path)
    assert "private" not in str(told.value)


def test_two_keys_of_one_name_are_refused(path: Path) -> None:
    _, key = made(path)
    with pytest.raises(BadKeyFile, match="the same key_id"):
        add_key(path, key) or read_keys(path)


def test_keys_that_are_added_at_once_are_all_there(path: Path) -> None:
    threads = [threading.Thread(target=made, args=(path, f"t{i}")) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {key.tenant for key in read_keys(path)} == {f"t{i}" for i in range(8)}


def test_a_key_is_found_by_itself_alone(path: Path) -> None:
    secret, key = made(path)
    made(path)
    ring = Keyring(str(path))
    assert ring.find(secret) == key
    assert ring.named(key.key_id) == key
    for wrong in ("", key.sha256, key.key_id, secret[:-1], secret + "x", "\ud800",
                  "x" * (MAX_KEY_CHARS + 1)):  # fmt: skip
        assert ring.find(wrong) is None


def test_keys_come_and_go_with_the_file(path: Path) -> None:
    first, key = made(path)
    ring = Keyring(str(path))
    second, _ = made(path)
    assert ring.find(second) is not None
    remove_key(path, key.key_id)
    assert ring.find(first) is None
    assert ring.named(key.key_id) is None


def test_a_secret_that_is_mounted_changes_by_its_links(path: Path) -> None:
    """As kubelet does it: keys.json -> ..data/keys.json, and ..data -> another directory."""
    versions = [path.parent / "..1", path.parent / "..2"]
    secrets = [made(made_in(directory) / path.name)[0] for directory in versions]
    data = path.parent / "..data"
    data.symlink_to(versions[0])
    path.symlink_to(data / path.name)
    ring = Keyring(str(path))
    fresh = path.parent / "..fresh"
    fresh.symlink_to(versions[1])
    fresh.replace(data)
    assert [ring.find(secret) is not None for secret in secrets] == [False, True]


def made_in(directory: Path) -> Path:
    directory.mkdir()
    return directory


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_text("{")])
def test_a_file_that_is_spoilt_locks_nobody_out(
    spoil: Any, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    secret, _ = made(path)
    content = path.read_text()
    ring = Keyring(str(path))
    spoil(path)
    with caplog.at_level(logging.ERROR):
        assert all(ring.find(secret) for _ in range(5))
    assert len(caplog.records) <= 1
    path.write_text(json.dumps({"keys": []}))
    assert ring.find(secret) is None
    path.write_text(content)
    assert ring.find(secret) is not None


def test_a_file_without_keys_lets_nobody_in_and_says_so(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_text('{"keys": []}')
    ring = Keyring(str(path))
    assert "nobody is let in" in caplog.text
    assert ring.find("") is None


def test_a_file_that_is_not_there_is_an_error(path: Path) -> None:
    with pytest.raises(BadKeyFile, match="No such file"):
        Keyring(str(path))
