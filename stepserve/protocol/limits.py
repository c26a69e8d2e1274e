"""What a field of a value can hold, beside its type: the annotations of which it is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True, slots=True)
class Width:
    """The least and the greatest number of a field, as wide as the protos have it."""

    low: int
    high: int


@dataclass(frozen=True, slots=True)
class MaxItems:
    """How many items a field may have. The service's limit: whoever asks may ask for more."""

    count: int


U32 = Annotated[int, Width(0, 2**32 - 1)]
U64 = Annotated[int, Width(0, 2**64 - 1)]
S32 = Annotated[int, Width(-(2**31), 2**31 - 1)]
