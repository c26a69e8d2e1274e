"""The gated activation of Llama-like models: ``silu(gate) * up`` (Shazeer, "GLU Variants")."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def silu_mul_reference(gate_up: Tensor) -> Tensor:
    """``[T, 2 I]``, gate in the first half, to ``[T, I]``; silu is rounded before the product."""
    gate, up = gate_up.chunk(2, dim=-1)
    return functional.silu(gate) * up
