"""Keys are made, listed and taken back; each is shown once."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from scheduler_svc.access.key_file import read_keys
from scheduler_svc.access.keyring import Keyring
from stepserve.cli import main, parse


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def test_a_key_is_printed_once_and_listed_without_itself(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bounds = ["--weight=2", "--requests-per-minute=60", "--tokens-per-minute=90000"]
    assert parse(["keys", "add", str(path), "--tenant=acme", *bounds, "--max-jobs=3"]).run() == 0
    shown = capsys.readouterr()
    secret = shown.out.strip()
    found = Keyring(str(path)).find(secret)
    assert found is not None
    assert (found.tenant, found.weight, found.requests_per_minute) == ("acme", 2, 60)
    assert (found.tokens_per_minute, found.max_jobs, found.max_priority) == (90000, 3, 10)
    assert found.key_id in shown.err
    assert secret not in shown.err
    for flags in ([], ["--json"]):
        assert parse(["keys", "list", str(path), *flags]).run() == 0
        listed = capsys.readouterr().out
        assert secret not in listed
        assert found.sha256 not in listed
        assert found.key_id in listed
    assert json.loads(listed)["keys"][0]["tenant"] == "acme"


def test_a_key_is_taken_back(path: Path) -> None:
    parse(["keys", "add", str(path), "--tenant=acme"]).run()
    [key] = read_keys(path)
    assert parse(["keys", "remove", str(path), key.key_id]).run() == 0
    assert read_keys(path) == ()


@pytest.mark.parametrize(
    ("command", "problem"),
    [(["list"], "can't be read: No such file"), (["remove", "k"], "can't be read"),
     (["add", "--tenant=t"], "can't be written")],
)  # fmt: skip
def test_what_can_t_be_done_is_said_in_one_line(
    command: list[str],
    problem: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    verb, *rest = command
    path = tmp_path / "no" / "such" / "directory"
    monkeypatch.setattr(sys, "argv", ["stepserve", "keys", verb, str(path), *rest])
    assert main() == 1
    error = capsys.readouterr().err
    assert problem in error
    assert error.count("\n") == 1
