"""The log-probabilities of a prompt's tokens: thousands of numbers, packed wherever they go."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from stepserve.protocol.packed import (
    check_count,
    num_items,
    pack,
    pack_floats,
    unpack,
    unpack_floats,
)

# Of one job, whose outputs have the prompt's each: 256 KiB as they are kept, eight bytes each.
MAX_PROMPT_LOGPROBS = 2**15


@dataclass(frozen=True, slots=True)
class PlaceLogprobs:
    """A prompt token's log-probability, and the likeliest (token id, log-probability)s there."""

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class PromptLogprobs:
    """Of K tokens of a prompt, one after the other; of a whole one, from its second token on.

    As the model has them: before penalties, bias and temperature.

    Attributes:
        logprobs: K little-endian float32.
        top_ids, top_logprobs: K * N little-endian u32 and float32, each place's likeliest first.
    """

    logprobs: bytes = b""
    top_ids: bytes = b""
    top_logprobs: bytes = b""

    @classmethod
    def of(
        cls, logprobs: Sequence[float], top_ids: Sequence[int], top_logprobs: Sequence[float]
    ) -> PromptLogprobs:
        """Pack numbers. Raises InvalidRequest where they do not fit each other."""
        packed = cls(pack_floats(logprobs), pack(top_ids), pack_floats(top_logprobs))
        packed.check()
        return packed

    @classmethod
    def joined(cls, parts: Sequence[PromptLogprobs]) -> PromptLogprobs:
        """Those of all parts, in their order; each has the same N."""
        return cls(
            b"".join(part.logprobs for part in parts),
            b"".join(part.top_ids for part in parts),
            b"".join(part.top_logprobs for part in parts),
        )

    def check(self) -> None:
        """Raise InvalidRequest where the arrays do not fit each other."""
        names = ("logprobs", "top_ids", "top_logprobs")
        own, ids, top = (num_items(name, getattr(self, name)) for name in names)
        check_count("top_logprobs", top, ids)
        check_count("top_ids", ids, self.num_top * own)

    @property
    def is_finite(self) -> bool:
        """Whether each token has a probability."""
        return all(map(math.isfinite, unpack_floats("logprobs", self.logprobs)))

    def __len__(self) -> int:
        return len(self.logprobs) // 4

    @property
    def num_top(self) -> int:
        """N."""
        return len(self.top_ids) // max(1, len(self.logprobs))

    def __iter__(self) -> Iterator[PlaceLogprobs]:
        """Each token's, as values."""
        num_top, ids = self.num_top, unpack("top_ids", self.top_ids)
        values = unpack_floats("top_logprobs", self.top_logprobs)
        for at, logprob in enumerate(unpack_floats("logprobs", self.logprobs)):
            here = slice(at * num_top, (at + 1) * num_top)
            yield PlaceLogprobs(logprob, tuple(zip(ids[here], values[here], strict=True)))
