"""The lengths that stand for ShareGPT."""

from __future__ import annotations

import random
from statistics import fmean

import pytest

from stepserve_bench.workloads.lengths import Bounds, FixedLengths, ShareGPTLengths, UniformLengths


def test_sharegpt_has_the_published_means() -> None:
    chance = random.Random(0)
    pairs = [ShareGPTLengths().draw(chance) for _ in range(40_000)]
    assert fmean(prompt for prompt, _ in pairs) == pytest.approx(202, rel=0.03)
    assert fmean(output for _, output in pairs) == pytest.approx(179, rel=0.03)


@pytest.mark.parametrize(
    ("max_context", "scale"), [(2048, 1.0), (256, 0.125), (64, 1.0), (2, 0.001)]
)
def test_sharegpt_fits_into_the_context(max_context: int, scale: float) -> None:
    chance = random.Random(1)
    lengths = ShareGPTLengths(max_context, scale)
    for prompt, output in (lengths.draw(chance) for _ in range(2_000)):
        assert prompt >= 1
        assert output >= 1
        assert prompt + output <= max_context


def test_a_small_scale_scales_both_means() -> None:
    chance = random.Random(2)
    pairs = [ShareGPTLengths(256, 0.125).draw(chance) for _ in range(40_000)]
    assert fmean(prompt for prompt, _ in pairs) == pytest.approx(202 / 8, rel=0.05)
    assert fmean(output for _, output in pairs) == pytest.approx(179 / 8, rel=0.05)


def test_uniform_and_fixed_draw_what_they_say() -> None:
    chance = random.Random(3)
    uniform = UniformLengths(Bounds(3, 5), Bounds(1, 2))
    drawn = {uniform.draw(chance) for _ in range(500)}
    assert drawn == {(prompt, output) for prompt in (3, 4, 5) for output in (1, 2)}
    assert FixedLengths(7, 9).draw(chance) == (7, 9)
