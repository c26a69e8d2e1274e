"""A service and its watcher, as ``stepserve worker`` runs: it crashes, and serves again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from stepserve.commands.services import Worker
from stepserve.local import guarded
from stepserve.local.processes import Service

WAIT_S = 60.0
GUARDED = """
import sys
from stepserve.local.guarded import run_guarded
from stepserve.local.processes import Service
sys.exit(run_guarded(Service("small", ["tests.stepserve.commands.small_service", *sys.argv[1:]])))
"""


def test_it_outlives_a_crash_and_ends_when_it_is_told_to() -> None:
    command = [sys.executable, "-c", GUARDED, "--port=0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            [first] = psutil.Process(process.pid).children()
            os.kill(first.pid, signal.SIGSEGV)
            end_s = time.monotonic() + WAIT_S
            while first in (children := psutil.Process(process.pid).children()) or not children:
                assert time.monotonic() < end_s
                time.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            assert process.wait(WAIT_S) == 0
            assert line.startswith("ready worker=127.0.0.1:")
            assert process.stdout.read() == "", "its line comes once"
            assert not children[0].is_running()
        finally:
            process.kill()


def test_one_that_can_not_be_started_is_not_started_again() -> None:
    done = subprocess.run([sys.executable, "-c", GUARDED, "--dies", "--port=0"], check=False)
    assert done.returncode == 7


def test_the_worker_is_given_every_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Service] = []
    monkeypatch.setattr(guarded, "run_guarded", lambda service: started.append(service) or 0)
    worker = Worker(model="m", port=0, num_blocks=9, reflection=False, dtype="float64")
    assert worker.run() == 0
    [service] = started
    module, *flags = service.arguments
    assert module == "worker_svc"
    assert {"--model=m", "--port=0", "--num-blocks=9", "--no-reflection"} <= set(flags)
    assert "--dtype=float64" in flags
    assert not [flag for flag in flags if flag.endswith(("=", "=None"))]
