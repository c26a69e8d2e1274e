"""What is said while services start."""

from __future__ import annotations

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
    shown = capsys.readouterr()
    assert shown.err.splitlines() == [
        "stepserve: loading m ...",
        "stepserve: still loading m ... (10 s so far)",
        "stepserve: still loading m ... (20 s so far)",
        "stepserve: starting 1 scheduler ...",
        "stepserve: ready after 25.0 s; try it",
    ]
    Starting(is_silent=True).begin("nothing")
    assert capsys.readouterr().err == ""
    assert shown.out == "", "a program reads the ready line there"
