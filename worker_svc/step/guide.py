"""Which token a sequence may choose next: a replay of its tokens, whoever chose them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future

import numpy as np
from llguidance import LLMatcher
from numpy.typing import NDArray

from stepserve.grammars.compiler import GrammarRefused
from worker_svc.core.residents import Resident
from worker_svc.kernels.restrict import WORD_BITS
from worker_svc.step.pending import Pending

Words = NDArray[np.int32]


class Guide:
    """Follows one sequence's output.

    ``matcher`` comes from a thread that compiles; None: any text will do, if it does not end too
    soon.

    What it says depends on the sequence's sampling values and tokens alone. It is told of steps
    in their order by the thread that launches, and asked by another, for one step after the other.
    """

    def __init__(
        self, resident: Resident, matcher: Future[LLMatcher] | None, num_words: int
    ) -> None:
        admission = resident.admission
        self.resident = resident
        self._coming = matcher
        self._matcher: LLMatcher | None = None
        self._untaken = list(admission.token_ids[admission.num_prompt_tokens :])
        self._launched: deque[tuple[Pending, int]] = deque()
        self._ends = mask_of(resident.stop_token_ids, num_words)
        self._no_ends = ~self._ends
        self._is_over = self._is_lost = False

    def chose(self, pending: Pending, at: int) -> None:
        """Its next token is the one that row ``at`` of a step chooses."""
        if self._coming is not None:
            self._launched.append((pending, at))

    def catch_up(self) -> LLMatcher | None:
        """Take every token so far, and wait for those that are still chosen.

        Return the matcher that is to be asked then; None where there is none, or nothing to ask.
        """
        if self._coming is None:
            return None
        while self._launched:
            pending, at = self._launched.popleft()
            token_id = pending.token_id(at)
            self._is_over |= token_id is None or token_id in self.resident.stop_token_ids
            if token_id is not None:
                self._untaken.append(token_id)
        if self._is_over or self._is_lost:
            return None
        try:
            self._matcher = self._matcher or self._coming.result()
        except GrammarRefused:
            self._is_lost = True
            return None
        self._is_lost = not self._matcher.consume_tokens(self._untaken)
        self._untaken.clear()
        return None if self._is_lost else self._matcher

    def concerns(self, position: int) -> bool:
        """Whether the token that goes to ``position`` may not be any."""
        return self._coming is not None or self._is_early(position)

    def _is_early(self, position: int) -> bool:
        offset = position - self.resident.num_prompt_tokens
        return offset < self.resident.sampling.min_tokens

    def finish(self, words: Words, position: int) -> bool:
        """Complete what the matcher wrote; return whether there is a token left to choose.

        An end is chosen where the text is complete, and not too early unless nothing can follow.
        A token that ends the output by the client's wish and is the only one that can follow is
        chosen as text.

        Args:
            words: the mask, all of it set where no matcher was asked.
            position: where the next token goes.
        """
        if self._is_over:
            return True
        if self._is_lost or (self._matcher is not None and self._matcher.is_error()):
            return False
        may_end = self._matcher is None or self._matcher.is_accepting()
        text = words & self._no_ends
        if not text.any():
            words[:] = self._ends if may_end else words
            return bool(words.any())
        if may_end and not self._is_early(position):
            words |= self._ends
        else:
            words[:] = text
        return True


def mask_of(token_ids: Iterable[int], num_words: int) -> Words:
    """The mask of these tokens alone."""
    words = np.zeros(num_words, dtype=np.uint32)
    for token_id in token_ids:
        word, bit = divmod(token_id, WORD_BITS)
        words[word] |= np.uint32(1 << bit)
    return words.view(np.int32)
