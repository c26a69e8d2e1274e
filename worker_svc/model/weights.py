"""A decoder's weights as the model uses them, and where a checkpoint's tensors go in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from worker_svc.model.config import ModelConfig
from worker_svc.model.part import Part
from worker_svc.model.share import WHOLE

# CPU matrices up to this size are stored [in, out]: MKL then multiplies 1 to 8 rows 1.2 to 2.4
# times as fast and up to 128 rows no slower; above it [out, in] wins from 16 rows on.
MAX_ROW_MAJOR_BYTES = 4 << 20
EMBEDDING = "model.embed_tokens.weight"
VOCABULARY = "lm_head.weight"


@dataclass(frozen=True, slots=True)
class Linear:
    """What ``Kernels.linear`` takes: weight ``[in, out]`` in either memory order."""

    weight: Tensor
    bias: Tensor | None = None


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer; ``qkv`` and ``gate_up`` are the checkpoint's projections side by side."""

    input_norm: Tensor
    qkv: Linear
    query_norm: Tensor | None
    key_norm: Tensor | None
    output: Linear
    mlp_norm: Tensor
    gate_up: Linear
    down: Linear


@dataclass(frozen=True, slots=True)
class DecoderWeights:
    """A decoder's, or those of a part: only its first stage embeds, only its last one gives logits.

    ``embedding [vocab, hidden]``; ``vocabulary`` maps hidden to logits.
    """

    embedding: Tensor | None
    layers: tuple[LayerWeights, ...]
    final_norm: Tensor | None
    vocabulary: Linear | None

    def with_tied_vocabulary(self) -> DecoderWeights:
        """The same with logits from the embedding, copied where another memory order pays."""
        if self.vocabulary is None:
            return self
        matrix = self.vocabulary.weight
        if _is_row_major_better(matrix):
            matrix = matrix.contiguous()
        return replace(self, vocabulary=Linear(matrix))


@dataclass(frozen=True, slots=True)
class Targets:
    """Memory for weights, to be filled, and the ``views`` into it by a checkpoint's names."""

    dtype: torch.dtype
    device: torch.device
    views: dict[str, Tensor] = field(default_factory=dict)

    def vector(self, name: str, size: int) -> Tensor:
        """A tensor ``[size]`` that ``name`` fills."""
        tensor = torch.empty(size, dtype=self.dtype, device=self.device)
        self.views[name] = tensor
        return tensor

    def embedding(self, name: str, num_rows: int, size: int) -> Tensor:
        """A tensor ``[num_rows, size]`` that ``name`` fills."""
        tensor = torch.empty((num_rows, size), dtype=self.dtype, device=self.device)
        self.views[name] = tensor
        return tensor

    def linear(self, parts: Sequence[tuple[str, int]], num_inputs: int, has_bias: bool) -> Linear:
        """One matrix that the projections ``parts``, (name, outputs) each, fill side by side."""
        num_outputs = sum(size for _, size in parts)
        matrix = torch.empty((num_outputs, num_inputs), dtype=self.dtype, device=self.device)
        if _is_row_major_better(matrix):
            matrix = matrix.view(num_inputs, num_outputs).t()
        bias = matrix.new_empty(num_outputs) if has_bias else None
        start = 0
        for name, size in parts:
            self.views[f"{name}.weight"] = matrix[start : start + size]
            if bias is not None:
                self.views[f"{name}.bias"] = bias[start : start + size]
            start += size
        return Linear(matrix.t(), bias)


def allocate(
    config: ModelConfig, tied: str | None, targets: Targets, part: Part = WHOLE
) -> DecoderWeights:
    """Weights of a ``part`` that ``targets`` fill, not yet filled.

    ``tied`` names the one tensor that is the embedding and the vocabulary, where one is both.
    """
    vocab_size, hidden_size = config.vocab_size, config.hidden_size
    embedding = final_norm = vocabulary = None
    if part.is_first or (part.is_last and tied):
        embedding = targets.embedding(tied or EMBEDDING, vocab_size, hidden_size)
    layers = tuple(
        _layer(config, index, targets)
        for index in part.layers(config.num_layers, config.head_layers)
    )
    if part.is_last:
        final_norm = targets.vector("model.norm.weight", hidden_size)
    if part.is_last and tied and embedding is not None:
        vocabulary = Linear(embedding.t())
    elif part.is_last:
        name = VOCABULARY.removesuffix(".weight")
        vocabulary = targets.linear([(name, vocab_size)], hidden_size, False)
    return DecoderWeights(embedding if part.is_first else None, layers, final_norm, vocabulary)


def _layer(config: ModelConfig, index: int, targets: Targets) -> LayerWeights:
    prefix = f"model.layers.{index}"
    attention, mlp = f"{prefix}.self_attn", f"{prefix}.mlp"
    hidden, head_dim = config.hidden_size, config.head_dim
    query_size, kv_size = config.num_heads * head_dim, config.num_kv_heads * head_dim
    qkv = [("q_proj", query_size), ("k_proj", kv_size), ("v_proj", kv_size)]
    gate_up = [(f"{mlp}.{name}", config.intermediate_size) for name in ("gate_proj", "up_proj")]
    norms = (
        [targets.vector(f"{attention}.{name}.weight", head_dim) for name in ("q_norm", "k_norm")]
        if config.qk_norm
        else [None, None]
    )
    return LayerWeights(
        input_norm=targets.vector(f"{prefix}.input_layernorm.weight", hidden),
        qkv=targets.linear(
            [(f"{attention}.{name}", size) for name, size in qkv], hidden, config.qkv_bias
        ),
        query_norm=norms[0],
        key_norm=norms[1],
        output=targets.linear([(f"{attention}.o_proj", hidden)], query_size, config.output_bias),
        mlp_norm=targets.vector(f"{prefix}.post_attention_layernorm.weight", hidden),
        gate_up=targets.linear(gate_up, hidden, config.mlp_bias),
        down=targets.linear(
            [(f"{mlp}.down_proj", hidden)], config.intermediate_size, config.mlp_bias
        ),
    )


def _is_row_major_better(matrix: Tensor) -> bool:
    return matrix.device.type == "cpu" and matrix.nbytes <= MAX_ROW_MAJOR_BYTES
