"""Commands run in this process, as the command line gives them, against the api."""

from __future__ import annotations

import asyncio

import pytest

from stepserve.cli import parse
from tests.scheduler_svc.api.conftest import card, checkpoint, served

__all__ = ["card", "checkpoint", "served"]


async def command(*argv: object) -> int:
    """Parse the arguments and run what they name, in a thread; return its exit status."""
    return await asyncio.to_thread(parse(list(map(str, argv))).run)


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may have variables of their own."""
    for name in ("TARGET", "MODEL", "REDIS_URL", "STOP", "TENANT"):
        monkeypatch.delenv(f"STEPSERVE_{name}", raising=False)
