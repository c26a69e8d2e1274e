"""One greedy job alone, by transformers on the CPU: what the service must give in any batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

# In float32 another order of the same sums may choose otherwise where the choice leads by less.
TIE_MARGIN = 1e-4


@dataclass(frozen=True, slots=True)
class LoneRun:
    """By output offset: the token, and by how much its logit leads the next one's."""

    tokens: list[int] = field(default_factory=list)
    margins: list[float] = field(default_factory=list)

    def difference(self, tokens: Sequence[int]) -> str:
        """What is wrong with ``tokens``; empty if nothing is, or from a near tie on."""
        for offset, (ours, theirs) in enumerate(zip(tokens, self.tokens, strict=False)):
            if ours != theirs:
                return "" if self.is_tie(offset) else self._described(offset, ours)
        if len(tokens) != len(self.tokens):
            return f"{len(tokens)} tokens, alone {len(self.tokens)}"
        return ""

    def is_tie(self, offset: int) -> bool:
        """Whether rounding may choose another token there."""
        return self.margins[offset] < TIE_MARGIN

    def _described(self, offset: int, ours: int) -> str:
        margin = self.margins[offset]
        return f"token {offset} is {ours}, alone {self.tokens[offset]}, which led by {margin:.2g}"


def load(directory: Path) -> Any:
    """The checkpoint as transformers runs it, in float32 on the CPU."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()


@torch.inference_mode()
def lone_greedy(model: Any, prompt: Sequence[int], num_tokens: int) -> LoneRun:
    """Generate exactly ``num_tokens`` tokens after ``prompt``."""
    from transformers import DynamicCache

    cache, run, inputs = DynamicCache(config=model.config), LoneRun(), list(prompt)
    for _ in range(num_tokens):
        output = model(torch.tensor([inputs]), past_key_values=cache, use_cache=True)
        best = output.logits[0, -1].topk(2)
        run.tokens.append(int(best.indices[0]))
        run.margins.append(float(best.values[0] - best.values[1]))
        inputs = run.tokens[-1:]
    return run
