from __future__ import annotations

import random
from statistics import mean

import pytest

from scheduler_svc.core.lengths import (
    MAX_SAMPLES,
    MAX_TENANTS,
    MIN_SAMPLES,
    Histogram,
    OutputLengths,
)


def test_until_enough_is_known_it_goes_on_as_long_as_it_has_gone() -> None:
    lengths = OutputLengths()
    for _ in range(MIN_SAMPLES - 1):
        lengths.add("a", 40)
    assert [lengths.remaining("a", generated, 100) for generated in (0, 7, 300)] == [1, 7, 100]


def test_a_tenant_with_few_is_expected_to_be_like_all() -> None:
    lengths = OutputLengths()
    for _ in range(MIN_SAMPLES):
        lengths.add("a", 40)
        lengths.add("b", 10)
    lengths.add("c", 10_000)
    assert lengths.remaining("a", 0, 1000) == 40
    assert lengths.remaining("b", 0, 1000) == 10
    assert lengths.remaining("c", 0, 10_000) == lengths.remaining("d", 0, 10_000) > 40


def test_never_more_than_the_limit_nor_less_than_one() -> None:
    lengths = OutputLengths()
    for _ in range(MIN_SAMPLES):
        lengths.add("", 40)
    assert lengths.remaining("", 0, 15) == 15
    assert lengths.remaining("", 500, 100) == 1


@pytest.mark.parametrize("generated", [0, 10, 100, 400])
def test_what_remains_is_the_mean_of_those_that_got_so_far(generated: int) -> None:
    chance = random.Random(1)
    samples = [max(1, round(chance.lognormvariate(4.5, 1.0))) for _ in range(1900)]
    histogram = Histogram()
    for sample in samples:
        histogram.add(sample)
    expected = mean(sample - generated for sample in samples if sample > generated)
    assert histogram.remaining(generated) == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize("generated", [0, 10, 100, 400])
@pytest.mark.parametrize("quantile", [0.05, 0.3, 0.5, 0.9])
def test_a_draw_is_a_quantile_of_those_that_got_so_far(generated: int, quantile: float) -> None:
    chance = random.Random(1)
    samples = [max(1, round(chance.lognormvariate(4.5, 1.0))) for _ in range(1900)]
    histogram = Histogram()
    for sample in samples:
        histogram.add(sample)
    longer = sorted(sample for sample in samples if sample > generated)
    expected = longer[int(quantile * len(longer))]
    found = generated + histogram.drawn(generated, quantile)
    assert found == pytest.approx(expected, rel=0.25, abs=2)


def test_what_ended_long_ago_fades() -> None:
    histogram = Histogram()
    for _ in range(MAX_SAMPLES):
        histogram.add(1000)
    for _ in range(2 * MAX_SAMPLES):
        histogram.add(10)
    assert histogram.num_samples <= MAX_SAMPLES
    assert histogram.remaining(0) < 400


def test_tenants_are_forgotten_beyond_a_bound() -> None:
    lengths = OutputLengths()
    for _ in range(MIN_SAMPLES):
        lengths.add("first", 7)
    for number in range(MAX_TENANTS):
        lengths.add(f"tenant {number}", 100)
    assert lengths.remaining("first", 0, 1000) > 50
