"""The resident rows on the device: one row of each table for every live sequence.

What a row holds is written when a sequence is admitted, and grows where it lies: the last token
never leaves the device for the next step. All of it is disposable; the scheduler's record can
rebuild any row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stepserve.protocol.sampling import MAX_LOGIT_BIASES
from worker_svc.core.limits import Limits
from worker_svc.core.residents import Resident, Row
from worker_svc.kernels import Kernels
from worker_svc.kernels.locate import RowTables
from worker_svc.kernels.record import RECORD_WORDS, pack_biases, pack_record
from worker_svc.step.staging import ALIGNED_ITEMS, aligned, pack

# Indices into all of the tables are 32-bit integers.
MAX_ITEMS = 2**31 - 1
# The block tables' index among the tables.
_BLOCK_TABLES = 1

Array = NDArray[Any]


class RowTable:
    """Tables of ``max_batch_size`` rows, and one more that belongs to nobody and has ended.

    They lie in one run of memory, so that all that a step changes is one copy and one scatter.

    Attributes:
        token_ids: ``[max_rows, max_context]`` int32, prompt and output.
        block_tables: ``[max_rows, max_blocks_per_row]`` int32.
        has_ended: ``[max_rows]`` int32, 1 where the device saw the sequence's end.
        records: ``[max_rows, RECORD_WORDS]`` int32, how its tokens are chosen (see ``record``).
        bias_ids: ``[max_rows, MAX_LOGIT_BIASES]`` int32; how many there are is in the record.
        bias_values: ``[max_rows, MAX_LOGIT_BIASES]`` float32.
        nobody: the row that belongs to nobody: what padding names.
    """

    def __init__(self, limits: Limits, device: torch.device, kernels: Kernels) -> None:
        self.device = device
        self._locate = kernels.locate
        self.nobody = limits.max_batch_size
        num_rows = self.nobody + 1
        wanted = (limits.max_context, limits.max_blocks_per_row, 1, RECORD_WORDS)
        self._widths = [aligned(width) for width in (*wanted, MAX_LOGIT_BIASES, MAX_LOGIT_BIASES)]
        self._starts = [0, *accumulate(num_rows * width for width in self._widths)]
        assert self._starts[-1] <= MAX_ITEMS
        self._memory = torch.zeros(self._starts[-1], dtype=torch.int32, device=device)
        tables = [
            self._memory[start : start + num_rows * width].view(num_rows, width)
            for start, width in zip(self._starts, self._widths, strict=False)
        ]
        self.token_ids, self.block_tables, ended, self.records, self.bias_ids, biases = tables
        self.bias_values = biases.view(torch.float32)
        self.has_ended = ended[:, 0]
        self.has_ended[self.nobody] = 1
        self._tables = RowTables(
            self.token_ids, self.block_tables, self.has_ended, limits.block_size
        )

    @staticmethod
    def fits(limits: Limits) -> bool:
        """Whether rows of such lengths can be addressed."""
        width = limits.max_context + limits.max_blocks_per_row + RECORD_WORDS + 2 * MAX_LOGIT_BIASES
        return (limits.max_batch_size + 1) * (width + 6 * ALIGNED_ITEMS) <= MAX_ITEMS

    def write(self, admitted: Sequence[Resident], rows: Sequence[Row]) -> None:
        """Fill the rows of the admitted, and lengthen the block tables of rows that grow."""
        runs = [*chain.from_iterable(map(self._filling, admitted)), *self._growth(rows)]
        if not runs:
            return
        indices = [np.arange(begin, begin + len(values)) for begin, values in runs]
        values = np.concatenate([values for _, values in runs])
        at, written = pack((np.concatenate(indices), values), self.device)
        self._memory[at] = written

    def _filling(self, resident: Resident) -> Iterator[tuple[int, Array]]:
        admission = resident.admission
        bias_ids, bias_values = pack_biases(admission.sampling)
        columns: tuple[Sequence[int] | Array, ...] = (
            admission.token_ids,
            admission.block_ids,
            (0,),
            pack_record(admission, resident.max_tokens),
            bias_ids,
            bias_values,
        )
        for table, values in enumerate(columns):
            if len(values):
                yield self._index(table, resident.row_id), np.asarray(values, dtype=np.int32)

    def _growth(self, rows: Sequence[Row]) -> Iterator[tuple[int, Array]]:
        for row in rows:
            if row.new_block_ids:
                end = self._index(_BLOCK_TABLES, row.resident.row_id) + row.num_blocks
                new = np.asarray(row.new_block_ids, dtype=np.int32)
                yield end - len(new), new

    def _index(self, table: int, row_id: int) -> int:
        return self._starts[table] + row_id * self._widths[table]

    def locate(self, row_ids: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens ``[T]`` int64 and slots ``[T]`` int32 of rows at positions, both ``[T]`` int32."""
        return self._locate(row_ids, positions, self._tables)
