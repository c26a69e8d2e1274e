"""What is said while services start."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepserve.local.starting import SAY_AGAIN_S, Starting


def test_what_takes_long_is_said_again(capsys: pytest.CaptureFixture[str]) -> None:
    now_s = 100.0
    starting = Starting(lambda: now_s)
    starting.begin("loading m")
    for _ in range(25):
        now_s += SAY_AGAIN_S / 10
        starting.goes_on()
    starting.begin("starting 1 scheduler")
    starting.goes_on()
    starting.end("try it")
    starting.begin("loading m from a long way away", again="loading m")
    now_s += SAY_AGAIN_S
    starting.goes_on()
    starting.stop()
    starting.stopped(Path("here"))
    starting.stopped(None)
    shown = capsys.readouterr()
    assert shown.err.splitlines() == [
        "stepserve: loading m ...",
        "stepserve: still loading m ... (10 s since the start)",
        "stepserve: still loading m ... (20 s since the start)",
        "stepserve: starting 1 scheduler ...",
        "stepserve: ready after 25.0 s; try it",
        "stepserve: loading m from a long way away ...",
        "stepserve: still loading m ... (35 s since the start)",
        "stepserve: stopping ...",
        "stepserve: stopped; the jobs are kept in here: the same command goes on with them",
        "stepserve: stopped",
    ]
    Starting(is_silent=True).begin("nothing")
    assert capsys.readouterr().err == ""
    assert shown.out == "", "a program reads the ready line there"
