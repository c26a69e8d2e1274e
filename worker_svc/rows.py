"""The resident rows on the device: one line of each table for every live sequence.

Tokens, block tables and sampling values are written once, when a sequence is admitted, and
grow in place: the last token never leaves the device for the next step. All of it is
disposable; the scheduler's record can rebuild any line.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, chain
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from worker_svc.limits import Limits
from worker_svc.resident import Resident, Row
from worker_svc.step.record import MAX_BIASES, RECORD_WORDS, pack_biases, pack_record

# 16 bytes of int32.
ALIGNED_ITEMS = 4


class RowTable:
    """Tables of ``max_batch_size`` lines.

    Attributes:
        token_ids: ``[lines, max_context]`` int32, prompt and output.
        block_tables: ``[lines, max_blocks_per_row]`` int32.
        records: ``[lines, RECORD_WORDS]`` int32, see ``record``.
        has_ended: ``[lines]`` int32, 0 or 1.
        bias_ids, bias_values: ``[lines, MAX_BIASES]`` int32 and float32, ``num_biases`` of them.
    """

    def __init__(self, limits: Limits, device: torch.device) -> None:
        lines = limits.max_batch_size
        self.device = device
        self.block_size = limits.block_size
        self.token_ids = torch.zeros((lines, limits.max_context), dtype=torch.int32, device=device)
        self.block_tables = torch.zeros(
            (lines, limits.max_blocks_per_row), dtype=torch.int32, device=device
        )
        self.records = torch.zeros((lines, RECORD_WORDS), dtype=torch.int32, device=device)
        self.has_ended = torch.zeros(lines, dtype=torch.int32, device=device)
        self.bias_ids = torch.zeros((lines, MAX_BIASES), dtype=torch.int32, device=device)
        self.bias_values = torch.zeros((lines, MAX_BIASES), device=device)

    def admit(self, resident: Resident) -> None:
        """Fill the sequence's line."""
        line, admission, sampling = resident.line, resident.admission, resident.sampling
        self.token_ids[line, : resident.num_tokens] = self._to_device(admission.token_ids)
        if admission.block_ids:
            self.block_tables[line, : len(admission.block_ids)] = self._to_device(
                admission.block_ids
            )
        self.records[line] = self._to_device(pack_record(admission, resident.max_tokens))
        self.has_ended[line] = 0
        if sampling.logit_bias:
            token_ids, biases = map(self._to_device, pack_biases(sampling))
            self.bias_ids[line, : len(token_ids)] = token_ids
            self.bias_values[line, : len(biases)] = biases.view(torch.float32)

    def grow(self, rows: Sequence[Row]) -> None:
        """Write the new blocks at the ends of the rows' block tables; their hosts count them."""
        growing = [row for row in rows if row.new_block_ids]
        if not growing:
            return
        counts = [len(row.new_block_ids) for row in growing]
        ends = [len(row.resident.block_ids) for row in growing]
        lines = np.repeat([row.resident.line for row in growing], counts)
        places = np.concatenate(
            [np.arange(end - count, end) for end, count in zip(ends, counts, strict=True)]
        )
        block_ids = list(chain.from_iterable(row.new_block_ids for row in growing))
        packed = self._to_device(np.stack([lines, places, block_ids]))
        self.block_tables[packed[0], packed[1]] = packed[2]

    def tokens(self, lines: Tensor, positions: Tensor) -> Tensor:
        """``[T]`` int64: the tokens at ``positions`` of ``lines``, ``[T]`` each."""
        return self.token_ids[lines, positions].long()

    def slots(self, lines: Tensor, positions: Tensor) -> Tensor:
        """``[T]`` int32: where the keys and values of these tokens lie."""
        blocks = self.block_tables[lines, positions // self.block_size]
        return blocks * self.block_size + positions % self.block_size

    def append(self, residents: Sequence[Resident], token_ids: Tensor) -> None:
        """Write the tokens ``[S]`` that were chosen behind the sequences' last ones."""
        packed = self._to_device(
            [[resident.line for resident in residents], [r.num_tokens for r in residents]]
        )
        self.token_ids[packed[0], packed[1]] = token_ids.to(torch.int32)

    def pack(self, parts: Sequence[Sequence[int] | npt.NDArray[Any]]) -> list[Tensor]:
        """The parts as views of one int32 tensor: one copy to the device.

        Each begins where 16 bytes do, in every step: Triton compiles anew for another alignment.
        """
        sizes = [-(-len(part) // ALIGNED_ITEMS) * ALIGNED_ITEMS for part in parts]
        starts = [0, *accumulate(sizes)]
        buffer = np.zeros(starts[-1], dtype=np.int32)
        for start, part in zip(starts, parts, strict=False):
            buffer[start : start + len(part)] = part
        packed = torch.from_numpy(buffer).to(self.device)
        return [
            packed[start : start + len(part)] for start, part in zip(starts, parts, strict=False)
        ]

    def _to_device(
        self, values: Sequence[int] | Sequence[Sequence[int]] | npt.NDArray[Any]
    ) -> Tensor:
        return torch.from_numpy(np.asarray(values, dtype=np.int32)).to(self.device)
