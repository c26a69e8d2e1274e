"""What may be set, by flags and in the environment."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from worker_svc.settings import WorkerSettings


@pytest.mark.parametrize("name", ["max_kept_reports", "max_step_tokens", "max_context"])
def test_counts_fit_into_what_carries_them(name: str) -> None:
    with pytest.raises(ValidationError, match="less than or equal to 2147483647"):
        WorkerSettings(model="unused", **{name: 2**31})  # type: ignore[arg-type]


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPSERVE_MAX_BATCH_SIZE", "7")
    monkeypatch.setenv("STEPSERVE_MODEL", "somewhere")
    settings = WorkerSettings()  # type: ignore[call-arg]
    assert (settings.max_batch_size, settings.model) == (7, "somewhere")
