from __future__ import annotations

import pytest

from tests.scheduler_svc.core.build import core_config


@pytest.mark.parametrize(
    "name",
    [
        "num_blocks",
        "block_size",
        "max_context",
        "max_batch_size",
        "max_step_tokens",
        "max_steps_in_flight",
        "max_uncommitted_steps",
        "num_stages",
    ],
)
def test_a_limit_that_lets_nothing_through_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1"):
        core_config(**{name: 0})


def test_a_context_that_the_cache_cannot_hold_is_refused() -> None:
    core_config(num_blocks=4, block_size=4, max_context=16)
    with pytest.raises(ValueError, match="more than the cache holds"):
        core_config(num_blocks=4, block_size=4, max_context=17)


def test_no_more_sequences_run_than_can_decode_in_one_step() -> None:
    assert core_config(max_batch_size=8, max_step_tokens=64).num_places == 8
    assert core_config(max_batch_size=8, max_step_tokens=3).num_places == 3


def test_a_micro_batch_is_filled_to_its_share_of_the_places_or_to_what_was_asked() -> None:
    def target_rows(num_places: int, **changes: int) -> int:
        config = core_config(max_batch_size=num_places, max_step_tokens=512, **changes)
        return config.target_rows

    assert target_rows(256, num_stages=4) == 32
    assert target_rows(64, num_stages=4) == 16
    assert target_rows(10, num_stages=4) == 3
    assert target_rows(256, num_stages=4, target_batch_size=100) == 100
    with pytest.raises(ValueError, match="target_rows must be at least 1"):
        core_config(target_batch_size=0)
