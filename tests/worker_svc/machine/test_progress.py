"""How far a load is, where nobody watches."""

from __future__ import annotations

import pytest

from worker_svc.machine.progress import MIN_REPORTED_BYTES, progress


def test_progress_is_a_line_every_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("some-model", MIN_REPORTED_BYTES) as advance:
        for _ in range(64):
            advance(MIN_REPORTED_BYTES // 64)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"loading some-model: {tenth}0 %" for tenth in range(1, 11)]


def test_several_processes_on_one_terminal_write_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with progress("some-model, stage 1 of 2", MIN_REPORTED_BYTES, is_alone=False) as advance:
        advance(MIN_REPORTED_BYTES)
    assert capsys.readouterr().err == "loading some-model, stage 1 of 2: 100 %\n"


def test_small_loads_are_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("some-model", MIN_REPORTED_BYTES - 1) as advance:
        advance(MIN_REPORTED_BYTES - 1)
    assert capsys.readouterr().err == ""
