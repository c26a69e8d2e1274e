from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Literal, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler_svc.core.config import CoreConfig
from scheduler_svc.core.events import Effect, Event
from scheduler_svc.trace.encode import BadTrace, canonical, codec
from tests.scheduler_svc.core.build import core_config
from tests.scheduler_svc.core.test_machine import QUIET


class Colour(IntEnum):
    RED = 1


@dataclass(frozen=True)
class Leaf:
    number: float
    way: Literal["up", "down"] = "up"


@dataclass(frozen=True)
class Everything:
    count: int
    leaf: Leaf | None = None
    colours: Sequence[tuple[Colour, str]] = ()
    leaves: Mapping[int, Leaf] = field(default_factory=dict)
    flags: tuple[bool, ...] = ()


EVERYTHING = codec(Everything)


@pytest.mark.parametrize("kind", [*get_args(Event), *get_args(Effect)])
def test_events_and_effects_are_known_whatever_they_hold(kind: Any) -> None:
    both = codec(kind)

    @settings(QUIET, max_examples=15)
    @given(st.builds(kind))
    def there_and_back(value: Any) -> None:
        line = canonical(both.pack(value))
        assert canonical(both.pack(both.unpack(json.loads(line)))) == line

    there_and_back()


def test_there_and_back() -> None:
    value = Everything(3, Leaf(math.inf), ((Colour.RED, "x"),), {2: Leaf(0.1, "down")}, (True,))
    packed = EVERYTHING.pack(value)
    assert packed == {
        "count": 3,
        "leaf": {"number": "inf"},
        "colours": [[1, "x"]],
        "leaves": [[2, {"number": 0.1, "way": "down"}]],
        "flags": [True],
    }
    assert EVERYTHING.unpack(json.loads(canonical(packed))) == value


def test_lists_and_tuples_are_the_same_bytes_and_defaults_are_left_out() -> None:
    assert EVERYTHING.pack(Everything(1, None, [], {}, ())) == {"count": 1}


@pytest.mark.parametrize("number", [math.inf, -math.inf, 0.1, 1e300, -0.0, 1.7e9 + 1e-7])
def test_every_number_survives(number: float) -> None:
    both = codec(float)
    again = both.unpack(json.loads(canonical(both.pack(number))))
    assert (again, math.copysign(1, again)) == (number, math.copysign(1, number))
    assert math.isnan(both.unpack(both.pack(math.nan)))


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        {"count": "3"},
        {"count": True},
        {"count": 3, "more": 1},
        {"count": 3, "leaf": {}},
        {"count": 3, "leaf": {"number": 1}},
        {"count": 3, "leaf": {"number": "1.0"}},
        {"count": 3, "leaf": {"number": 1.0, "way": "left"}},
        {"count": 3, "colours": [[2, "x"]]},
        {"count": 3, "colours": [[1]]},
        {"count": 3, "leaves": {"2": {"number": 1.0}}},
        {"count": 3, "flags": [1]},
    ],
)
def test_what_is_not_ours_raises(data: Any) -> None:
    with pytest.raises(BadTrace):
        EVERYTHING.unpack(data)


@pytest.mark.parametrize("data", [{}, {"Nothing": {}}, {"Send": {}, "Claim": {}}, []])
def test_one_of_several_must_be_one_of_them(data: Any) -> None:
    with pytest.raises(BadTrace):
        codec(Effect).unpack(data)


def test_limits_that_no_core_takes_are_no_config() -> None:
    packed = codec(CoreConfig).pack(core_config()) | {"num_blocks": 0}
    with pytest.raises(BadTrace, match="num_blocks"):
        codec(CoreConfig).unpack(packed)


def test_a_type_that_is_not_in_the_table_is_an_error_at_once() -> None:
    with pytest.raises(TypeError, match="complex"):
        codec(tuple[complex, ...])
