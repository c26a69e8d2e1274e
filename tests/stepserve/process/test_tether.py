"""A child ends with the process that started it, however that ends."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

WAIT_S = 30.0

# Each starts a child that sleeps, prints its process id, and sleeps itself.
MODULE = """
import subprocess, time
from stepserve.process.tether import tethered
print(subprocess.Popen(tethered("sleeper")).pid, flush=True)
time.sleep(3600)
"""
PROGRAM = """
import shutil, subprocess, time
from stepserve.process.tether import tethered_program
print(subprocess.Popen(tethered_program(shutil.which("sleep"), "3600")).pid, flush=True)
time.sleep(3600)
"""
FORK = """
import os, time
from stepserve.process.tether import end_with
parent = os.getpid()
if not (child := os.fork()):
    end_with(parent)
    print(os.getpid(), flush=True)
time.sleep(3600)
"""
ORPHAN = """
import os
from stepserve.process.tether import end_with
end_with(os.getppid() + 1)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel is asked for it")
@pytest.mark.parametrize("script", [MODULE, PROGRAM, FORK], ids=["module", "program", "fork"])
def test_a_child_ends_with_a_parent_that_is_killed(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sleeper.py").write_text("import time\nprint('up', flush=True)\ntime.sleep(3600)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    path = {"PYTHONPATH": ":".join(map(str, sys.path))}
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=path) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        if script is MODULE:
            assert parent.stdout.readline() == "up\n"
        while script is PROGRAM and child.name() != "sleep":
            time.sleep(0.01)
        parent.send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs([child], timeout=WAIT_S)
    for process in alive:
        process.kill()
    assert not alive


def test_who_has_no_parent_any_more_does_not_start() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ORPHAN], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (1, "the process that started this one is gone\n")


def test_the_current_directory_is_not_on_a_childs_path(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise ImportError('of the user')\n")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "greeting.py").write_text("import json, sys\nprint(sys.argv[1:])\n")
    script = """
import subprocess
from stepserve.process.tether import tethered
subprocess.run(tethered("greeting", "hello"), check=True)
"""
    path = ":".join([str(tmp_path / "mine"), *sys.path])
    done = subprocess.run(
        [sys.executable, "-P", "-c", script],
        cwd=tmp_path,
        env={"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "['hello']\n", done.stderr
