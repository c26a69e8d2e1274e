"""JSON as clients get it: ASCII, whatever is in it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from scheduler_svc.http.as_json import as_json


@pytest.mark.parametrize(
    "value",
    [
        {"text": 'a "quote", \\ and\n', "none": None, "yes": True, "numbers": [0, -1, 2.5, 1e-9]},
        {"text": "a\x85b\u2028c\u2029", "name é": "世界", "high": "🎉a🎉"},
        "\x00\x1f\x7f\u0080\uffff\U0010ffff",
        {"half": "\ud800", "other": "é\udfffa"},
        {"huge": 2**70, 3: "a number as a name"},
        [[]] * 3 + [{}],
    ],
)
def test_it_is_one_line_of_ascii_and_reads_as_the_value(value: Any) -> None:
    found = as_json(value)
    assert found.isascii()
    assert len(found.decode().splitlines()) == 1, "some clients split where Unicode would"
    assert json.loads(found) == json.loads(json.dumps(value))


def test_no_number_is_what_json_has_none_for() -> None:
    assert json.loads(as_json([float("nan"), float("inf")])) == [None, None]


def test_depth_is_no_trouble() -> None:
    value: Any = "é"
    for _ in range(400):
        value = [value]
    assert json.loads(as_json(value)) == value


@pytest.mark.parametrize("text", ["日本 é", "\u2028\U0010ffff", '"naïve" \\ \ufffd'])
@pytest.mark.parametrize("times", [1, 1000])
def test_what_is_long_is_written_as_what_is_short(text: str, times: int) -> None:
    value = {"text": text * times, text: [None, True, 2.5, 1e-9, -0.1234567], "ends": {"é": []}}
    found = as_json(value)
    assert json.loads(found) == value
    assert json.dumps(text * times).encode() in found
    assert b", " not in found


def test_no_number_is_null_also_beside_what_is_long() -> None:
    text = "é" * 1000
    assert json.loads(as_json([text, float("nan")])) == [text, None]
