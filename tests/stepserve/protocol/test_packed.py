"""Packed arrays: little-endian four-byte items, and nothing else."""

from __future__ import annotations

import math
import struct

import pytest

from stepserve.protocol.errors import InvalidRequest
from stepserve.protocol.packed import (
    check_length,
    float32,
    pack,
    pack_floats,
    split,
    unpack,
    unpack_floats,
)


def test_numbers_lie_as_they_always_did() -> None:
    """What is stored in Redis must stay readable."""
    numbers = (0, 1, 2**31, 2**32 - 1)
    assert pack(numbers) == struct.pack("<4I", *numbers)
    assert unpack("ids", pack(iter(numbers))) == numbers
    assert pack_floats([0.5, -1.25]) == struct.pack("<2f", 0.5, -1.25)
    assert unpack_floats("values", pack_floats([0.5, -1.25])) == (0.5, -1.25)
    assert (pack(()), unpack("ids", b"")) == (b"", ())


@pytest.mark.parametrize("number", [-1, 2**32])
def test_what_is_no_u32_is_refused(number: int) -> None:
    with pytest.raises(OverflowError):
        pack([number])


def test_part_of_a_number_is_refused() -> None:
    for read in (unpack, unpack_floats):
        with pytest.raises(InvalidRequest, match=r"^ids: 5 bytes are no whole number"):
            read("ids", b"12345")
    with pytest.raises(InvalidRequest, match=r"^ids: has 2 items, 3 belong there"):
        check_length("ids", (1, 2), 3)


def test_runs() -> None:
    assert list(split((1, 2, 3), (2, 0, 1))) == [(1, 2), (), (3,)]


def test_a_float32_is_the_nearest_one() -> None:
    assert float32(0.1) == struct.unpack("<f", struct.pack("<f", 0.1))[0] != 0.1
    assert (float32(1), float32(1e-60), float32(-1e300)) == (1.0, 0.0, -math.inf)
