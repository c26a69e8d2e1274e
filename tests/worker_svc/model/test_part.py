"""Which layers a stage has: such that none takes much longer than the others."""

from __future__ import annotations

import pytest

from worker_svc.model.part import Part


def counts(num_stages: int, num_layers: int, head_layers: float = 0.0) -> list[int]:
    """Layers of each stage; they follow one another and are all of them."""
    ranges = [
        Part(stage, num_stages).layers(num_layers, head_layers) for stage in range(num_stages)
    ]
    assert [layer for each in ranges for layer in each] == list(range(num_layers))
    return [len(each) for each in ranges]


@pytest.mark.parametrize("num_layers", [8, 9, 30, 36])
@pytest.mark.parametrize("num_stages", [1, 2, 3, 4, 8])
def test_without_a_vocabulary_they_are_even(num_stages: int, num_layers: int) -> None:
    found = counts(num_stages, num_layers)
    assert max(found) - min(found[:-1], default=0) <= (1 if num_stages > 1 else num_layers)
    assert max(found) == -(-num_layers // num_stages)


def test_the_vocabulary_counts_as_so_many_layers() -> None:
    # SmolLM2-135M: 49,152 tokens are 8 of its 30 layers.
    assert counts(2, 30, 8.0) == [19, 11]
    # Qwen3-8B: 151,936 tokens are 3.2 of its 36 layers.
    assert counts(4, 36, 3.2) == [10, 10, 10, 6]
    assert counts(2, 36, 3.2) == [20, 16]


def test_each_stage_has_a_layer_though_the_vocabulary_is_more_than_a_share() -> None:
    assert counts(3, 4, 100.0) == [2, 1, 1]
    assert counts(4, 4) == [1, 1, 1, 1]
