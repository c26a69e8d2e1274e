"""Arrays packed into ``bytes``: little-endian four-byte items, as they lie in memory."""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence

from stepserve.protocol.errors import InvalidRequest

assert sys.byteorder == "little"
assert array("I").itemsize == 4
assert array("f").itemsize == 4


def pack(values: Iterable[int]) -> bytes:
    """As u32. Raise OverflowError for a value that is none."""
    return array("I", values).tobytes()


def pack_floats(values: Iterable[float]) -> bytes:
    """As float32, rounded to nearest."""
    return array("f", values).tobytes()


def float32(value: float) -> float:
    """Return a number as it travels: rounded to the nearest float32, which may be infinite."""
    return array("f", (value,))[0]


def unpack(field: str, data: bytes) -> tuple[int, ...]:
    """Raise InvalidRequest where ``data`` is no whole number of items."""
    return struct.unpack(f"<{num_items(field, data)}I", data)


def unpack_floats(field: str, data: bytes) -> tuple[float, ...]:
    """Raise InvalidRequest where ``data`` is no whole number of items."""
    return struct.unpack(f"<{num_items(field, data)}f", data)


def check_length(field: str, values: Sequence[object], count: int) -> None:
    """Raise InvalidRequest unless ``values`` has ``count`` items."""
    check_count(field, len(values), count)


def check_count(field: str, found: int, count: int) -> None:
    """Raise InvalidRequest unless the field has ``count`` items."""
    if found != count:
        raise InvalidRequest(field, f"has {found} items, {count} belong there")


def num_items(field: str, data: bytes) -> int:
    """Return how many are packed. Raise InvalidRequest where that is no whole number."""
    if len(data) % 4:
        raise InvalidRequest(field, f"{len(data)} bytes are no whole number of 4-byte items")
    return len(data) // 4


def split(values: Sequence[int], counts: Sequence[int]) -> Iterator[Sequence[int]]:
    """Cut ``values``, which has sum(counts) items, into runs of ``counts``."""
    start = 0
    for count in counts:
        yield values[start : start + count]
        start += count
