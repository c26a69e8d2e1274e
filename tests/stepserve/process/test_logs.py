"""Where logs begin: a level that there is, or a refusal."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from stepserve.process.logs import VARIABLE, start_logging
from stepserve.protocol.errors import StepserveError


@pytest.fixture
def _level() -> Iterator[None]:
    level = logging.getLogger().level
    yield
    logging.getLogger().setLevel(level)


@pytest.mark.usefixtures("_level")
@pytest.mark.parametrize(
    ("value", "level"),
    [(None, logging.INFO), ("", logging.INFO), ("debug", logging.DEBUG), ("ERROR", logging.ERROR)],
)
def test_the_level_is_the_variables(
    monkeypatch: pytest.MonkeyPatch, value: str | None, level: int
) -> None:
    # As in a fresh process: nobody listens yet.
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.delenv(VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(VARIABLE, value)
    start_logging()
    assert logging.getLogger().level == level


def test_a_level_that_there_is_not_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "loud")
    with pytest.raises(StepserveError, match="STEPSERVE_LOG_LEVEL is 'LOUD', not one of CRITICAL"):
        start_logging()
