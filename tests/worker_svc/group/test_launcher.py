"""How the launcher of a machine's ranks ends, by how they do."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from stepserve.process.stopping import StopFlag
from worker_svc.group.launcher import RankProcess, _watch
from worker_svc.group.place import Place


@contextmanager
def rank_zero() -> Iterator[RankProcess]:
    """A process that does nothing, and leaves signals to the system."""
    command = [sys.executable, "-S", "-c", "import time; time.sleep(600)"]
    with subprocess.Popen(command) as process:
        try:
            yield RankProcess(Place(0, 2, 1, 0, 1, "", 0), process)
        finally:
            process.kill()


def test_a_stop_while_ranks_load_is_no_failure(capsys: pytest.CaptureFixture[str]) -> None:
    stop = StopFlag()
    stop.set()
    with rank_zero() as rank:
        assert _watch([rank], stop) == 0
    assert capsys.readouterr().err == ""


def test_who_ends_a_rank_from_outside_ends_the_worker(capsys: pytest.CaptureFixture[str]) -> None:
    with rank_zero() as rank:
        rank.process.send_signal(signal.SIGTERM)
        assert _watch([rank], StopFlag()) == 128 + signal.SIGTERM
    assert "stage 0 of 2 was ended by SIGTERM" in capsys.readouterr().err
