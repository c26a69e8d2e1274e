from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from scheduler_svc.core.events import Claimed
from scheduler_svc.trace.replay import PROG, ReplayCommand
from stepserve.process.command_line import parse_settings
from tests.scheduler_svc.core.build import core_config, job
from tests.scheduler_svc.trace.tape import Tape, TapedCore


def recorded() -> str:
    tapes: list[Tape] = []
    core = TapedCore(core_config(), tapes)
    core.handle(())
    core.handle((Claimed((job("a"), job("b"))),))
    return tapes[0].text


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "lane.events.jsonl"
    path.write_text(recorded())
    return path


def replayed(*arguments: str) -> int:
    return parse_settings(ReplayCommand, PROG, arguments).run()


def test_it_says_that_nothing_differs(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert replayed(str(trace)) == 0
    out = capsys.readouterr().out
    assert re.fullmatch(
        rf"{re.escape(str(trace))}: 2 turns, 1 events, \d effects: identical\n", out
    )


def test_it_shows_what_differs(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = trace.read_text()
    trace.write_text(text.replace('{"max_jobs":4}', '{"max_jobs":5}'))
    assert replayed(str(trace)) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"{trace}: 1 turns, 0 events, 1 effects: turn 1 differs:",
        '  recorded  {"Claim":{"max_jobs":5}}',
        '  replayed  {"Claim":{"max_jobs":4}}',
    ]


def test_of_a_long_line_it_shows_where_it_differs(
    trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = trace.read_text()
    trace.write_text(re.sub(r'"new_block_ids":\[0,1\]', '"new_block_ids":[0,2]', text, count=1))
    assert replayed(str(trace)) == 1
    _, left, right = capsys.readouterr().out.splitlines()
    assert '"new_block_ids":[0,2]' in left
    assert '"new_block_ids":[0,1]' in right
    assert len(left) == len(right) < 350


def test_a_core_that_raises_differs(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # As a lane records a turn that raised.
    text = trace.read_text()
    trace.write_text(text + '[[{"Committed":{"step":99}}],[]]\n')
    assert replayed(str(trace)) == 1
    assert "replayed  raised ProtocolError: step 99" in capsys.readouterr().out


def test_every_file_is_replayed_and_one_that_is_no_trace_is_a_failure(
    trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = trace.with_name("other")
    other.write_text("no trace\n")
    assert replayed(str(other), str(trace), str(trace.with_name("missing"))) == 1
    not_json, identical, missing = capsys.readouterr().out.splitlines()
    assert not_json == f"{other}: a line is not JSON"
    assert identical.endswith("identical")
    assert "No such file" in missing


@pytest.mark.parametrize(("arguments", "status"), [(["--help"], 0), ([], 2)])
def test_as_a_program(arguments: list[str], status: int) -> None:
    command = [sys.executable, "-m", "scheduler_svc.trace.replay", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert "usage: stepserve replay" in done.stdout + done.stderr or status
