from __future__ import annotations

import math

import pytest

from stepserve.protocol.errors import InvalidRequest
from stepserve.protocol.prompt_logprobs import PlaceLogprobs, PromptLogprobs

ONE = PromptLogprobs.of([-0.5], [7, 8], [-0.5, -1.5])
TWO = PromptLogprobs.of([-2.0, -4.0], [1, 2, 3, 4], [-1.0, -2.0, -3.0, -4.0])


def test_each_token_has_its_own_and_the_likeliest_in_its_place() -> None:
    joined = PromptLogprobs.joined([ONE, PromptLogprobs(), TWO])
    assert (len(joined), joined.num_top) == (3, 2)
    assert list(joined) == [
        PlaceLogprobs(-0.5, ((7, -0.5), (8, -1.5))),
        PlaceLogprobs(-2.0, ((1, -1.0), (2, -2.0))),
        PlaceLogprobs(-4.0, ((3, -3.0), (4, -4.0))),
    ]
    assert list(PromptLogprobs()) == []


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_token_without_a_probability_is_found(value: float) -> None:
    assert TWO.is_finite
    assert not PromptLogprobs.of([-1.0, value], (), ()).is_finite


@pytest.mark.parametrize(
    ("own", "top_ids", "top"),
    [([-1.0, -2.0], [1], [-1.0]), ([], [1], [-1.0]), ([-1.0], [1, 2], [-1.0])],
)
def test_arrays_that_do_not_fit_each_other_are_refused(
    own: list[float], top_ids: list[int], top: list[float]
) -> None:
    with pytest.raises(InvalidRequest, match=r"items, \d+ belong there"):
        PromptLogprobs.of(own, top_ids, top)


def test_half_a_number_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="no whole number"):
        PromptLogprobs(b"12345").check()
