"""The wheel is built once, and an environment made of it for each extra that is asked for."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.installed.environment import Environment, build_wheel


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def installed(
    wheel: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Environment]:
    """Return what gives the environment of ``pip install stepserve[EXTRA]``."""

    @functools.cache
    def environment(extra: str) -> Environment:
        return Environment(tmp_path_factory.mktemp(extra or "bare"), wheel, extra)

    return environment


@pytest.fixture(scope="session")
def bare(installed: Callable[[str], Environment]) -> Environment:
    """What ``pip install stepserve`` brings: a client."""
    return installed("")
