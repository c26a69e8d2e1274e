"""A step's end on the device: chosen tokens are written behind their sequences, which may end."""

from __future__ import annotations

import torch
from torch import Tensor

from worker_svc.kernels.choice import Choice, SampledRows, SamplingTable
from worker_svc.kernels.record import Columns


def advance_reference(choice: Choice, sampled: SampledRows, table: SamplingTable) -> None:
    """Write the chosen tokens into ``table.token_ids``; mark those that ended in ``has_ended``.

    A sequence ends where its token is one of its stop ids or the last of its ``max_tokens``, and
    where its logits were not finite: then no token is written. A sequence that has ended already
    is left alone, and so are padded rows.
    """
    is_live = sampled.row_ids >= 0
    row_ids = sampled.row_ids.clamp(min=0).long()
    is_live &= table.has_ended[row_ids] == 0
    columns = Columns(table.records)[row_ids]
    stops = columns.stop_token_ids
    is_meant = torch.arange(stops.shape[1], device=row_ids.device) < columns.num_stops[:, None]
    is_finite = choice.is_finite != 0
    has_ended = ~is_finite | (sampled.positions + 1 >= columns.max_tokens)
    has_ended |= ((stops == choice.token_ids[:, None]) & is_meant).any(1)
    _write(table.token_ids, is_live & is_finite, (row_ids, sampled.positions), choice.token_ids)
    _write(table.has_ended, is_live, (row_ids,), has_ended)


def _write(into: Tensor, where: Tensor, at: tuple[Tensor, ...], values: Tensor) -> None:
    into[tuple(index[where].long() for index in at)] = values[where].to(into.dtype)
