from __future__ import annotations

import pytest

from tests.scheduler_svc.core.mutants import MUTANTS, main, mutated
from tests.scheduler_svc.core.mutations import Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_each_mistake_can_still_be_made(mutant: Mutant) -> None:
    compile(mutated(mutant), mutant.path, "exec")
    assert mutant.old != mutant.new


def test_their_names_differ() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_test_fails_for_each_mistake() -> None:
    assert main([]) == 0
