"""Rows are read on any terminal and by any program: nothing of them is cut."""

from __future__ import annotations

import os
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from rich.cells import cell_len

from stepserve.cli import parse
from stepserve.commands.jobs import COLUMNS
from stepserve.commands.tables import lines, print_rows

JOB = "Qwen3-8B-Instruct-2507~694dd8bb868e4affa1be30e680f4f22c"
FULL = (JOB, "ended", "2026-11-27 05:10:35", "4", "74+120", "stop", "a tenant", "why, " * 30)
BARE = (JOB[::-1], "queued", "2026-11-27 05:10:36", "5", "0", "", "", "")


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120])
def test_where_the_table_is_too_wide_rows_are_one_below_the_other(width: int) -> None:
    shown = list(lines(COLUMNS, [FULL, BARE], width))
    ids = [line for line in shown if not line.startswith(" ")]
    assert ids == [JOB, JOB[::-1]]
    text = " ".join(line.strip() for line in shown)
    for column, value in zip(COLUMNS[1:], FULL[1:], strict=True):
        assert f"{column}: {value}".strip() in text
    assert "tenant" not in " ".join(shown[shown.index(JOB[::-1]) :]), (
        "what is not there is left out"
    )
    whole = [line for line in shown if line.count(": ") > 1]
    assert all(cell_len(line) <= width for line in whole)


@pytest.mark.parametrize("width", [None, 500])
def test_where_there_is_room_it_is_a_table(width: int | None) -> None:
    head, full, bare = lines(COLUMNS, [FULL, BARE], width)
    assert head.split() == list(COLUMNS)
    assert full.startswith(f"{JOB}  ended   2026-11-27 05:10:35  4 ")
    assert full.endswith(FULL[-1].rstrip())
    assert head.index("state") == full.index("ended") == bare.index("queued")


def test_wide_characters_take_their_room() -> None:
    head, *rows = lines(("a", "b"), [("中文", "x"), ("cd", "y")], None)
    assert (head, *rows) == ("a     b", "中文  x", "cd    y")


def test_what_others_wrote_does_nothing_to_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows(("a", "b"), [("x", "\x1b[2Jone\ntwo\u2028three\u202e[red]")])
    assert capsys.readouterr().out.splitlines()[1] == "x   [2Jone two three [red]"


def test_keys_are_listed_whole_in_a_narrow_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A real one, as a person has it; what a pipe gets has the width that it takes."""
    listing = ["keys", "list", str(tmp_path / "keys.json")]
    tenant = "somebody-with-a-name-that-is-long"
    parse(["keys", "add", listing[-1], f"--tenant={tenant}"]).run()
    capsys.readouterr()
    parse(listing).run()
    piped = capsys.readouterr().out
    [_, row] = piped.splitlines()
    leader, follower = os.openpty()
    termios.tcsetwinsize(follower, (24, 60))
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    command = [sys.executable, "-m", "stepserve.cli", *listing]
    subprocess.run(command, check=True, stdout=follower, env=environment)
    shown = os.read(leader, 65536).decode().splitlines()
    os.close(follower)
    os.close(leader)
    assert shown[0] == row.split()[0]
    assert any(f"tenant: {tenant}" in line for line in shown)
    assert "…" not in piped + "".join(shown)
