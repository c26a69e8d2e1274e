"""Which families of models can be computed. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stepserve.modelfiles.directory import CheckpointError

# By architecture: the model_type that goes with it.
SUPPORTED = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
ARCHITECTURES = {model_type: architecture for architecture, model_type in SUPPORTED.items()}


def check_supported(path: Path, values: Mapping[str, Any]) -> str:
    """Return the architecture that a config.json at ``path`` names.

    Raises CheckpointError for one that can't be computed here, and says what is in the way.
    """
    architecture = _architecture(path, values)
    if values.get("quantization_config"):
        raise CheckpointError(f"{path}: quantization_config: quantized weights are not supported")
    if values.get("hidden_act", "silu") not in ("silu", "swish"):
        raise CheckpointError(f"{path}: hidden_act {values['hidden_act']!r} is not supported")
    return architecture


def _architecture(path: Path, values: Mapping[str, Any]) -> str:
    """The one that is named; where none is, that of the model's type, as in transformers."""
    model_type = values.get("model_type")
    named = values.get("architectures") or ARCHITECTURES.get(str(model_type), "none")
    architecture = str(named[0] if isinstance(named, list) else named)
    if architecture not in SUPPORTED:
        known = ", ".join(SUPPORTED)
        raise CheckpointError(f"{path}: architecture {architecture} is not supported ({known} are)")
    if model_type != SUPPORTED[architecture]:
        raise CheckpointError(f"{path}: model_type {model_type!r} is not that of {architecture}")
    return architecture
