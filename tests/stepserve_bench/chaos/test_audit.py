"""What must be nothing in the end is told where it is not, or where nobody tells."""

from __future__ import annotations

from stepserve_bench.chaos.audit import EMPTY, still_held

CLEAN = {**dict.fromkeys(EMPTY, 0.0), "lanes": 2.0}


def test_nothing_is_held_where_all_is_counted_as_nothing() -> None:
    assert still_held(CLEAN, 2) == []


def test_what_is_held_unknown_or_not_driven_is_told() -> None:
    for name in EMPTY:
        assert still_held({**CLEAN, name: 3.0}, 2) == [f"{name} 3.0"]
        assert still_held({key: value for key, value in CLEAN.items() if key != name}, 2)
    assert still_held(CLEAN, 3) == ["of 3 workers 2 are driven"]
    assert still_held({}, 1)
