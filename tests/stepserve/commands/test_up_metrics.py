"""Where the processes of ``stepserve up`` tell of themselves: each has a port of its own."""

from __future__ import annotations

from typing import cast

import pytest

from stepserve.cli import parse
from stepserve.commands.up import Role, Shared, Up

SHARED = Shared("", "token")


def lines(*flags: str) -> list[list[str]]:
    """The command lines of all processes, as ``up`` would start them."""
    up = cast(Up, parse(["up", "--model=m", *flags]))
    roles: tuple[Role, ...] = ("api", "lane") if up._is_apart else ("all",)
    schedulers = [
        up._scheduler(role, i, SHARED, []) for role in roles for i in range(up.schedulers)
    ]
    workers = [up._worker(i, SHARED) for i in range(up.workers)]
    return [service.arguments for service in (*schedulers, *workers)]


def ports(*flags: str) -> list[str]:
    found = [[f for f in line if f.startswith("--metrics-port=")] for line in lines(*flags)]
    return [flag.partition("=")[2] for [flag] in found]


def test_each_process_has_the_next_port() -> None:
    many = ("--metrics-port=9400", "--schedulers=2", "--workers=3")
    assert ports(*many, "--roles-apart=yes") == [str(9400 + i) for i in range(7)]
    assert ports(*many, "--roles-apart=no") == [str(9400 + i) for i in range(5)]
    assert set(ports("--metrics-port=0", "--workers=2")) == {"0"}


def test_all_are_asked_on_the_host_and_by_the_names_that_were_chosen() -> None:
    chosen = ("--metrics-port=0", "--metrics-prefix=vllm", "--host=0.0.0.0", "--roles-apart=no")
    for line in lines(*chosen):
        assert "--metrics-prefix=vllm" in line
        assert "--metrics-host=0.0.0.0" in line
    for line in lines(*chosen, "--metrics-host=127.0.0.1"):
        assert "--metrics-host=127.0.0.1" in line


def test_without_a_port_nothing_is_told() -> None:
    assert not [flag for line in lines() for flag in line if "metrics-port" in flag]


def test_ports_that_there_are_not_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["up", "--model=m", "--metrics-port=65534", "--roles-apart=no", "--workers=3"])
    assert "there is no port 65537" in capsys.readouterr().err
