"""The workers of the long tests that crash are those that ``stepserve up`` starts."""

from __future__ import annotations

from stepserve.commands.up import Shared, Up
from tests.fault.poisoned_up import poisoned


def test_it_is_the_worker_of_up_but_for_its_module() -> None:
    up = Up(model="some/model")
    shared = Shared("redis://localhost", "")
    usual, service = up._worker(0, shared), poisoned(up, 0, shared)
    assert service.arguments[0] == "tests.fault.poison"
    assert service.arguments[1:] == usual.arguments[1:]
