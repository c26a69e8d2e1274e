"""What a long run says of itself meanwhile, on standard error."""

from __future__ import annotations

import sys
from time import monotonic

from stepserve_bench.chaos.ledger import Ledger
from stepserve_bench.chaos.stalls import Struck

# A problem is told when it is found, but not hundreds of one cause.
MAX_TOLD = 10


class Progress:
    """Says each fault, and each problem once."""

    def __init__(self, num_faults: int, *, is_silent: bool = False) -> None:
        self._num_faults = num_faults
        self._num_struck = 0
        self._num_told = 0
        self._begin_s = monotonic()
        self._is_silent = is_silent

    def say(self, text: str) -> None:
        """Print a line with the time since the beginning."""
        if not self._is_silent:
            at_s = monotonic() - self._begin_s
            print(f"stepserve chaos: {at_s:6.1f} s  {text}", file=sys.stderr, flush=True)

    def fault(self, struck: Struck, ledger: Ledger) -> None:
        """A fault strikes now."""
        self._num_struck += 1
        self.say(
            f"{self._num_struck}/{self._num_faults} {struck.kind} of {struck.what}; so far "
            f"{len(ledger.entries)} jobs, {ledger.num_tokens} tokens, "
            f"{len(ledger.problems)} problems"
        )
        self.problems(ledger)

    def problems(self, ledger: Ledger) -> None:
        """Tell those that were not told yet."""
        for problem in ledger.problems[self._num_told : MAX_TOLD]:
            self.say(f"PROBLEM {problem}")
        self._num_told = len(ledger.problems)
