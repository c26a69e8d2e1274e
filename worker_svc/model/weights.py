"""A decoder's weights as the model uses them, and where a checkpoint's tensors go in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from worker_svc.model.config import ModelConfig
from worker_svc.model.division import Division, Run
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
class Piece:
    """A ``view`` of memory, and which run of each of a stored tensor's dimensions fills it."""

    view: Tensor
    runs: tuple[Run, ...]

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Of the whole tensor."""
        return tuple(run.whole for run in self.runs)

    @property
    def slices(self) -> tuple[slice, ...]:
        """What is taken of it."""
        return tuple(run.slice for run in self.runs)


@dataclass(frozen=True, slots=True)
class Targets:
    """Memory for weights, to be filled, and what of a checkpoint's tensors fills it, by name."""

    dtype: torch.dtype
    device: torch.device
    pieces: dict[str, Piece] = field(default_factory=dict)

    @property
    def views(self) -> dict[str, Tensor]:
        """The memory that each name fills."""
        return {name: piece.view for name, piece in self.pieces.items()}

    def tensor(self, name: str, *runs: Run) -> Tensor:
        """A tensor that the ``runs`` of ``name``, one of each of its dimensions, fill."""
        sizes = [run.size for run in runs]
        tensor = torch.empty(sizes, dtype=self.dtype, device=self.device)
        self.pieces[name] = Piece(tensor, runs)
        return tensor

    def linear(self, parts: Sequence[tuple[str, Run]], inputs: Run, has_bias: bool) -> Linear:
        """One matrix that the projections ``parts``, (name, outputs) each, fill side by side."""
        num_outputs = sum(outputs.size for _, outputs in parts)
        matrix = torch.empty((num_outputs, inputs.size), dtype=self.dtype, device=self.device)
        if _is_row_major_better(matrix):
            matrix = matrix.view(inputs.size, num_outputs).t()
        bias = matrix.new_empty(num_outputs) if has_bias else None
        start = 0
        for name, outputs in parts:
            end = start + outputs.size
            self.pieces[f"{name}.weight"] = Piece(matrix[start:end], (outputs, inputs))
            if bias is not None:
                self.pieces[f"{name}.bias"] = Piece(bias[start:end], (outputs,))
            start = end
        return Linear(matrix.t(), bias)


def allocate(
    config: ModelConfig, tied: str | None, targets: Targets, part: Part = WHOLE
) -> DecoderWeights:
    """Weights of a ``part`` that ``targets`` fill, not yet filled.

    ``tied`` names the one tensor that is the embedding and the vocabulary, where one is both.
    """
    tokens, hidden = Division.of(config, part).tokens, Run.all_of(config.hidden_size)
    embedding = final_norm = vocabulary = None
    if part.is_first or (part.is_last and tied):
        embedding = targets.tensor(tied or EMBEDDING, tokens, hidden)
    layers = tuple(
        _layer(config, index, targets, part)
        for index in part.layers(config.num_layers, config.head_layers)
    )
    if part.is_last:
        final_norm = targets.tensor("model.norm.weight", hidden)
    if part.is_last and tied and embedding is not None:
        vocabulary = Linear(embedding.t())
    elif part.is_last:
        name = VOCABULARY.removesuffix(".weight")
        vocabulary = targets.linear([(name, tokens)], hidden, False)
    return DecoderWeights(embedding if part.is_first else None, layers, final_norm, vocabulary)


def _layer(config: ModelConfig, index: int, targets: Targets, part: Part) -> LayerWeights:
    prefix = f"model.layers.{index}"
    attention, mlp = f"{prefix}.self_attn", f"{prefix}.mlp"
    division = Division.of(config, part)
    hidden, head = Run.all_of(config.hidden_size), Run.all_of(config.head_dim)
    query, kv = division.heads.times(head.size), division.kv_heads.times(head.size)
    qkv = [("q_proj", query), ("k_proj", kv), ("v_proj", kv)]
    gate_up = [(f"{mlp}.{name}", division.columns) for name in ("gate_proj", "up_proj")]
    # What is summed over the ranks has its bias once.
    adds_bias = part.rank == 0
    norms = (
        [targets.tensor(f"{attention}.{name}.weight", head) for name in ("q_norm", "k_norm")]
        if config.qk_norm
        else [None, None]
    )
    return LayerWeights(
        input_norm=targets.tensor(f"{prefix}.input_layernorm.weight", hidden),
        qkv=targets.linear(
            [(f"{attention}.{name}", outputs) for name, outputs in qkv], hidden, config.qkv_bias
        ),
        query_norm=norms[0],
        key_norm=norms[1],
        output=targets.linear(
            [(f"{attention}.o_proj", hidden)], query, config.output_bias and adds_bias
        ),
        mlp_norm=targets.tensor(f"{prefix}.post_attention_layernorm.weight", hidden),
        gate_up=targets.linear(gate_up, hidden, config.mlp_bias),
        down=targets.linear(
            [(f"{mlp}.down_proj", hidden)], division.columns, config.mlp_bias and adds_bias
        ),
    )


def _is_row_major_better(matrix: Tensor) -> bool:
    return matrix.device.type == "cpu" and matrix.nbytes <= MAX_ROW_MAJOR_BYTES
