"""What a figure must be read with."""

from __future__ import annotations

from importlib.metadata import version

import pytest

from stepserve_bench.report import machine


def test_only_what_is_installed_has_a_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "PACKAGES", ("grpcio", "no-such-package"))
    assert machine.machine()["versions"] == {"grpcio": version("grpcio")}
