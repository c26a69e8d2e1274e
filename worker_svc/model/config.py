"""What a decoder looks like, whatever its family: read once, with transformers' own reader."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from stepserve.modelfiles.directory import CheckpointError, read_json
from stepserve.modelfiles.facts import read_facts
from stepserve.modelfiles.families import check_supported

ATTENTION_BIAS = ("LlamaForCausalLM", "Qwen3ForCausalLM")
# Frequencies that do not depend on the length of the sequence at hand.
ROPE_TYPES = ("default", "linear", "llama3", "yarn")


# What transformers raises for values that it can't use.
REFUSALS = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    StrictDataclassError,
)


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """One shape for all families; sizes in elements, ``windows`` and ``max_context`` in tokens.

    Attributes:
        inv_freq: rotary frequencies, ``[head_dim / 2]``, each a float32's value.
        rope_scale: what cos and sin are multiplied by.
        windows: per layer, how many positions a token attends to, its own included; 0: all.
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_eps: float
    inv_freq: tuple[float, ...]
    rope_scale: float
    windows: tuple[int, ...]
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    qk_norm: bool
    tie_embeddings: bool
    max_context: int

    @property
    def head_layers(self) -> float:
        """How many layers' products the vocabulary's is, for a token that the next is chosen of."""
        attention = 2 * (self.num_heads + self.num_kv_heads) * self.head_dim
        return self.vocab_size / (attention + 3 * self.intermediate_size)


def read_config(directory: Path) -> ModelConfig:
    """The config of the checkpoint in ``directory``: its config.json.

    Raises:
        CheckpointError: no config, or a model that is not supported; says what is not.
    """
    path = directory / "config.json"
    architecture = check_supported(path, read_json(path))
    facts = read_facts(directory)
    try:
        source = AutoConfig.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False
        )
        inv_freq, rope_scale = _rope(path, source)
    except REFUSALS as error:
        raise CheckpointError(f"{path}: {' '.join(str(error).split())}") from error
    # transformers reads these flags where the family has such biases, and ignores them elsewhere.
    attention_bias = architecture in ATTENTION_BIAS and _flag(source, "attention_bias")
    config = ModelConfig(
        architecture=architecture,
        vocab_size=facts.vocab_size,
        hidden_size=source.hidden_size,
        intermediate_size=source.intermediate_size,
        num_layers=source.num_hidden_layers,
        num_heads=source.num_attention_heads,
        num_kv_heads=source.num_key_value_heads,
        head_dim=_head_dim(source),
        rms_eps=source.rms_norm_eps,
        inv_freq=inv_freq,
        rope_scale=rope_scale,
        windows=_windows(path, source),
        qkv_bias=architecture == "Qwen2ForCausalLM" or attention_bias,
        output_bias=attention_bias,
        mlp_bias=architecture == "LlamaForCausalLM" and _flag(source, "mlp_bias"),
        qk_norm=architecture == "Qwen3ForCausalLM",
        tie_embeddings=_flag(source, "tie_word_embeddings"),
        max_context=facts.max_context,
    )
    _check_shape(path, config)
    return config


def _check_shape(path: Path, config: ModelConfig) -> None:
    sizes = (config.vocab_size, config.hidden_size, config.intermediate_size, config.num_layers)
    if min(*sizes, config.num_heads, config.num_kv_heads, config.head_dim) < 1:
        raise CheckpointError(f"{path}: every size must be at least 1")
    if config.num_heads % config.num_kv_heads:
        heads = f"{config.num_heads} attention heads, {config.num_kv_heads} key-value heads"
        raise CheckpointError(f"{path}: {heads}: the first must be a multiple of the second")
    if config.head_dim % 2:
        raise CheckpointError(f"{path}: head_dim {config.head_dim} is odd")


def _rope(path: Path, source: Any) -> tuple[tuple[float, ...], float]:
    """The rotary frequencies and the factor on cos and sin, as transformers computes them."""
    parameters = source.rope_parameters
    rope_type = parameters.get("rope_type")
    if rope_type not in ROPE_TYPES:
        known = ", ".join(ROPE_TYPES)
        raise CheckpointError(
            f"{path}: rope type {rope_type!r} is not supported ({known} are): "
            "a cached key's frequencies must not change with its sequence's length"
        )
    if parameters.get("partial_rotary_factor", 1.0) != 1.0:
        raise CheckpointError(f"{path}: partial_rotary_factor is not supported")
    if rope_type != "default":
        inv_freq, scale = ROPE_INIT_FUNCTIONS[rope_type](source)
        return tuple(inv_freq.tolist()), float(scale)
    head_dim = _head_dim(source)
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    return tuple((1.0 / parameters["rope_theta"] ** exponents).tolist()), 1.0


def _windows(path: Path, source: Any) -> tuple[int, ...]:
    """Each layer's sliding window: all of Mistral's layers, the layers Qwen's layer_types name."""
    window = int(getattr(source, "sliding_window", None) or 0)
    if window < 0:
        raise CheckpointError(f"{path}: sliding_window {window} is negative")
    num_layers = int(source.num_hidden_layers)
    if source.model_type == "llama":
        return (0,) * num_layers
    if source.model_type == "mistral":
        if source.sliding_window == 0:
            raise CheckpointError(f"{path}: sliding_window 0: no token would see another")
        return (window,) * num_layers
    kinds = source.layer_types
    if set(kinds) - {"full_attention", "sliding_attention"} or len(kinds) != num_layers:
        raise CheckpointError(f"{path}: layer_types {kinds} is not supported")
    if "sliding_attention" in kinds and not window:
        raise CheckpointError(
            f"{path}: layer_types names sliding layers, sliding_window is not set"
        )
    return tuple(window if kind == "sliding_attention" else 0 for kind in kinds)


def _head_dim(source: Any) -> int:
    head_dim = getattr(source, "head_dim", None)
    return int(head_dim or source.hidden_size // source.num_attention_heads)


def _flag(source: Any, name: str) -> bool:
    return bool(getattr(source, name, False))
