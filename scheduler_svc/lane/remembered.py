"""What a lane remembers of an output, so that a log which lost its tail can be written again."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import pairwise

from scheduler_svc.queue import decode_logprobs, encode_logprobs
from stepserve.protocol.job import OutputLog
from stepserve.protocol.step import TokenLogprobs


class RememberedOutput:
    """Tokens from offset 0 on, four bytes each, and their log-probabilities as Redis has them.

    As values those of 20 likeliest tokens take 2.9 kB a token (measured); so they take 176
    bytes, in one piece that goes back to the system when the output has ended.
    """

    def __init__(self) -> None:
        self.token_ids = array("I")
        self._logprobs = bytearray()
        self._ends = array("Q", (0,))  # Where each token's log-probabilities end in them.

    def __len__(self) -> int:
        return len(self.token_ids)

    def extend(self, token_ids: Sequence[int], logprobs: Sequence[TokenLogprobs]) -> None:
        """Add tokens at the end. Raises OverflowError for one that is no u32."""
        self.token_ids.extend(token_ids)
        for entry in logprobs:
            self._logprobs += encode_logprobs(entry)
            self._ends.append(len(self._logprobs))

    def since(self, offset: int) -> OutputLog:
        """Return the tokens from ``offset`` on."""
        ends = self._ends[offset:] if offset < len(self._ends) else ()
        entries = [bytes(self._logprobs[start:end]) for start, end in pairwise(ends)]
        logprobs = tuple(map(decode_logprobs, entries))
        return OutputLog(0, tuple(self.token_ids[offset:]), offset, logprobs)
