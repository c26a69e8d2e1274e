"""Which processes ``stepserve up`` is made of."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from stepserve.commands.up import Up


@pytest.mark.parametrize(
    ("num_cores", "schedulers", "roles_apart", "is_apart"),
    [
        (2, 1, "auto", False),
        (4, 1, "auto", True),
        (7, 2, "auto", False),
        (8, 2, "auto", True),
        (64, 1, "no", False),
        (1, 1, "yes", True),
    ],
)
def test_roles_are_apart_where_there_are_cores_for_it(
    monkeypatch: pytest.MonkeyPatch,
    num_cores: int,
    schedulers: int,
    roles_apart: str,
    is_apart: bool,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(num_cores)))
    given = {"model": "m", "schedulers": schedulers, "roles_apart": roles_apart}
    assert Up.model_validate(given)._is_apart is is_apart


# The second signal comes at each line of the first one's handler, one after another.
SIGNALS_AT_ONCE = """
import os, signal, sys
from stepserve.process.stopping import stop_signals

def once(line):
    def trace(frame, event, argument):
        nonlocal line
        line -= 1
        if line == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return trace
    return trace

for line in range(1, 40):
    with stop_signals() as stop:
        sys.settrace(once(line))
        os.kill(os.getpid(), signal.SIGTERM)
        sys.settrace(None)
        assert stop.wait(60.0)
print("done")
"""


def test_two_signals_at_once_stop_it_as_one_does() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SIGNALS_AT_ONCE],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("done\n", 0), done.stderr


def test_http_takes_no_port_that_another_has() -> None:
    assert Up(model="m", port=8000)._http_port(0) == 0
    assert Up(model="m", port=7999, schedulers=2)._http_port(0) == 0
    assert Up(model="m", port=9000, metrics_port=8000)._http_port(0) == 0


@pytest.mark.parametrize(
    "given",
    [
        {"port": 9000, "http_port": 9000},
        {"port": 9000, "http_port": 9001, "schedulers": 2},
        {"port": 9000, "metrics_port": 9000},
        {"port": 9000, "http_port": 9001, "metrics_port": 8999, "workers": 2},
    ],
)
def test_a_port_that_is_asked_for_twice_is_refused(given: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="is asked for twice"):
        Up.model_validate({"model": "m", "roles_apart": "no", **given})


def test_one_port_on_two_addresses_is_two() -> None:
    Up(model="m", port=9000, metrics_port=9000, metrics_host="127.0.0.2")
    Up(model="m", port=9000, http_port=9000, http=False)
