"""The oracle's device: rows, and a paged cache of states, read through block tables."""

from __future__ import annotations

import os
from array import array
from dataclasses import dataclass

from stepserve.protocol.step import Admission
from stepserve_bench.oracle_worker.oracle import (
    BLOCK_SIZE,
    CRASH,
    EMPTY,
    POISON,
    choose,
    draw_of,
    state_after,
)
from worker_svc.core.limits import Limits
from worker_svc.core.residents import Row, StepPlan


@dataclass(slots=True)
class _DeviceRow:
    """A sequence as the device has it: it knows of a token, and of an end, before the host does."""

    admission: Admission
    max_tokens: int
    stop_token_ids: frozenset[int]
    token_ids: list[int]
    block_ids: list[int]
    is_poison: bool
    has_ended: bool = False


class OracleDevice:
    """Computes planned steps in their order. One thread uses it.

    What is in the cache is all that a row knows of the tokens before those that it computes: a
    block table that names a wrong block gives wrong tokens, as a model's would.
    """

    def __init__(self, limits: Limits) -> None:
        if limits.block_size != BLOCK_SIZE:
            raise ValueError(f"blocks of {limits.block_size} tokens; the oracle's have 16")
        self._states = array("Q", bytes(8 * BLOCK_SIZE * limits.num_blocks))
        self._rows: dict[int, _DeviceRow] = {}

    def compute(self, plan: StepPlan) -> list[int]:
        """Write what the rows compute; return the tokens of those that are sampled, in order.

        A row that has ended writes nothing more; its token means nothing.
        """
        for resident in plan.admitted:
            self._rows[resident.row_id] = _DeviceRow(
                resident.admission,
                resident.max_tokens,
                resident.stop_token_ids,
                list(resident.admission.token_ids),
                list(resident.admission.block_ids),
                POISON in resident.admission.token_ids,
            )
        chosen = []
        for row in plan.rows:
            # A sequence that was planned before its end was known may have left its place.
            mine = self._rows[row.resident.row_id]
            token_id = 0
            if mine.admission is row.resident.admission and not mine.has_ended:
                if mine.is_poison:
                    os.kill(os.getpid(), CRASH)
                token_id = self._compute(mine, row)
            if row.is_sampled:
                chosen.append(token_id)
        return chosen

    def _compute(self, mine: _DeviceRow, row: Row) -> int:
        mine.block_ids += row.new_block_ids
        states, blocks, start = self._states, mine.block_ids, row.start
        end = start + row.num_tokens
        state = states[_slot(blocks, start - 1)] if start else EMPTY
        for position in range(start, end):
            state = state_after(state, mine.token_ids[position])
            states[_slot(blocks, position)] = state
        if not row.is_sampled:
            return 0
        full = blocks[: end // BLOCK_SIZE]
        landmarks = sum([states[block * BLOCK_SIZE + BLOCK_SIZE - 1] for block in full])
        admission = mine.admission
        offset = row.position - admission.num_prompt_tokens
        draw = draw_of(admission.sampling, admission.index, offset)
        token_id = choose(state, landmarks, draw)
        mine.token_ids.append(token_id)
        mine.has_ended = token_id in mine.stop_token_ids or row.position + 1 >= mine.max_tokens
        return token_id


def _slot(blocks: list[int], position: int) -> int:
    return blocks[position // BLOCK_SIZE] * BLOCK_SIZE + position % BLOCK_SIZE
