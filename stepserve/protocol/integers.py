"""Whole numbers as wide as the protos have them: what a value's field can hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True, slots=True)
class Width:
    """The least and the greatest number of a field."""

    low: int
    high: int


U32 = Annotated[int, Width(0, 2**32 - 1)]
U64 = Annotated[int, Width(0, 2**64 - 1)]
S32 = Annotated[int, Width(-(2**31), 2**31 - 1)]
