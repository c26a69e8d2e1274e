"""Masks of the tokens that a step's rows may choose, made by the host while the device computes.

A row's mask takes its sequence's last token, so that has to be here: it was launched a step before,
and what is waited for is done before the next step's hidden states are.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from llguidance import LLExecutor, LLMatcher
from numpy.typing import NDArray

from stepserve.grammars.compiler import GrammarRefused
from worker_svc.core.limits import Limits
from worker_svc.core.residents import Resident, Row, StepPlan
from worker_svc.kernels.restrict import WORD_BITS, Restriction
from worker_svc.kernels.sampling import MAX_SCORE
from worker_svc.step.grammars import Grammars
from worker_svc.step.guide import Guide, Words
from worker_svc.step.pending import Pending
from worker_svc.step.staging import pack

# Threads that fill masks: each takes tens of microseconds, rarely milliseconds.
MAX_FILLERS = 8
# Rows, their masks, and the score of what is forbidden.
Made = tuple[NDArray[np.int32], Words, NDArray[np.float32]]


class _Wanted(NamedTuple):
    """A mask that is to be made: for which row of a step, for a token that goes where."""

    at: int
    position: int
    guide: Guide


class Masks:
    """Has a guide for each resident that needs one. One thread calls it, the one that launches.

    ``grammars`` compiles what texts have to be; without one no such text can be followed.
    """

    def __init__(self, limits: Limits, device: torch.device, dtype: torch.dtype) -> None:
        self.grammars: Grammars | None = None
        self._num_words = -(-limits.vocab_size // WORD_BITS)
        self._device = device
        # As low as the logits' type can say: what is forbidden is finite, and has no weight.
        self._floor = max(-MAX_SCORE, torch.finfo(dtype).min)
        self._guides: dict[int, Guide] = {}
        self._thread = ThreadPoolExecutor(1, "masks")
        self._fillers: LLExecutor | None = None

    def begin(self, plan: StepPlan, rows: Sequence[Row]) -> Future[Made] | None:
        """Begin to make the masks of a plan's rows that choose a token; None: any token will do."""
        self._admit(plan)
        if not self._guides:
            return None
        wanted = [
            _Wanted(at, row.position, guide)
            for at, row in enumerate(rows)
            if (guide := self._guides.get(row.resident.row_id)) and guide.concerns(row.position)
        ]
        return self._thread.submit(self._make, wanted) if wanted else None

    def _admit(self, plan: StepPlan) -> None:
        """Begin to follow who comes, and forget who has left."""
        if self._guides:
            left = [row_id for row_id, guide in self._guides.items() if not guide.resident.is_live]
            for row_id in left:
                del self._guides[row_id]
        for resident in plan.admitted:
            if resident.needs.guide:
                self._guides[resident.row_id] = Guide(
                    resident, self._matcher(resident), self._num_words
                )

    def _matcher(self, resident: Resident) -> Future[LLMatcher] | None:
        asked = resident.sampling.structured_outputs
        if asked is None:
            return None
        if self.grammars is None:
            refused: Future[LLMatcher] = Future()
            refused.set_exception(GrammarRefused("there is no tokenizer"))
            return refused
        return self.grammars.matcher(asked)

    def on_device(self, made: Future[Made]) -> Restriction:
        """Wait for masks; copy them to the device."""
        at, words, floors = made.result()
        parts = (at, words.reshape(-1), floors.view(np.int32))
        at_there, words_there, floors_there = pack(parts, self._device)
        shape = (len(at), self._num_words)
        return Restriction(at_there, words_there.view(shape), floors_there.view(torch.float32))

    def follow(self, rows: Sequence[Row], pending: Pending) -> None:
        """The rows choose their next tokens in a step that was launched."""
        if not self._guides:
            return
        for at, row in enumerate(rows):
            if guide := self._guides.get(row.resident.row_id):
                guide.chose(pending, at)

    def _make(self, wanted: Sequence[_Wanted]) -> Made:
        words = np.full((len(wanted), self._num_words), -1, dtype=np.int32)
        asked = [
            (matcher, number)
            for number, each in enumerate(wanted)
            if (matcher := each.guide.catch_up()) is not None
        ]
        if asked and self.grammars is not None:
            if self._fillers is None:
                self._fillers = LLExecutor(max(1, min(MAX_FILLERS, (os.cpu_count() or 1) // 2)))
            address, row_bytes = words.ctypes.data, words.strides[0]
            self._fillers.unsafe_compute_mask_ptr(asked, address, row_bytes, len(words))
            # The library's one end: what ends a sequence is told below.
            word, bit = divmod(self.grammars.end_token_id, WORD_BITS)
            words[[number for _, number in asked], word] &= ~np.uint32(1 << bit).view(np.int32)
        floors = np.full(len(wanted), self._floor, dtype=np.float32)
        for number, (_, position, guide) in enumerate(wanted):
            if not guide.finish(words[number], position):
                floors[number] = np.nan
                words[number] = 0
        return np.array([each.at for each in wanted], dtype=np.int32), words, floors
