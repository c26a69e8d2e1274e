"""Which processes ``stepserve up`` is made of."""

from __future__ import annotations

import os

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
