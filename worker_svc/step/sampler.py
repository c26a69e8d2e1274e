"""TEMPORARY"""

from dataclasses import dataclass

import torch


@dataclass
class SampledRows:
    lines: torch.Tensor
    positions: torch.Tensor


@dataclass
class StepNeeds:
    @classmethod
    def of(cls, residents):
        return cls()


@dataclass
class Choice:
    token_ids: torch.Tensor
    is_finite: torch.Tensor
    logprobs: object = None


class Sampler:
    def __init__(self, table, kernels):
        self._table = table

    def choose(self, logits, sampled, needs):
        wide = torch.promote_types(logits.dtype, torch.float32)
        return Choice(logits.argmax(-1).int(), torch.isfinite(logits.sum(-1, dtype=wide)))

    def advance(self, choice, sampled):
        t = self._table
        lines, pos = sampled.lines.long(), sampled.positions.long()
        over = t.has_ended[lines] > 0
        rec = t.records[lines]
        stops = rec[:, 2:]
        is_stop = (
            (stops == choice.token_ids[:, None]) & (torch.arange(stops.shape[1]) < rec[:, 1:2])
        ).any(1)
        end = ~choice.is_finite | is_stop | (pos + 1 >= rec[:, 0])
        t.token_ids[lines, pos] = torch.where(over, t.token_ids[lines, pos], choice.token_ids)
        t.has_ended[lines] = (end | over).int()
