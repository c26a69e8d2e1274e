"""What both services must know of a model alike, from its config.json. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepserve.modelfiles.directory import CheckpointError, read_json

# By model_type: what transformers takes for a vocab_size and a max_position_embeddings that the
# file does not state.
DEFAULTS = {
    "llama": {"vocab_size": 32_000, "max_position_embeddings": 2048},
    "mistral": {"vocab_size": 32_000, "max_position_embeddings": 131_072},
    "qwen2": {"vocab_size": 151_936, "max_position_embeddings": 32_768},
    "qwen3": {"vocab_size": 151_936, "max_position_embeddings": 32_768},
}
# Kinds of rope scaling whose max_position_embeddings is that of the training before, as model
# cards write them. For llama3 it is the lengthened one already.
LENGTHENING = ("linear", "yarn")
# Positions are 32-bit integers on every way they take.
MAX_INT = 2**31 - 1


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """``vocab_size`` counts tokens; ``max_context`` is prompt and output tokens together."""

    vocab_size: int
    max_context: int


def read_facts(directory: Path) -> ModelFacts:
    """The facts in ``directory``'s config.json.

    Raises:
        CheckpointError: there is no such file, or a value in it is of no use.
    """
    path = directory / "config.json"
    values = read_json(path)
    # A model of text inside another, of images say.
    if isinstance(text := values.get("text_config"), dict):
        values = {**values, **text}
    return ModelFacts(_count(path, values, "vocab_size"), _max_context(path, values))


def _max_context(path: Path, values: Mapping[str, Any]) -> int:
    """Tokens of a sequence at most: factor x original where a rope scaling lengthens it.

    As vLLM derives it (``_get_and_verify_max_len``); yarn without a factor has the one that
    max_position_embeddings implies.
    """
    stated = _count(path, values, "max_position_embeddings")
    rope = _rope(path, values)
    factor = rope.get("factor")
    if rope["rope_type"] not in LENGTHENING or factor is None:
        return min(stated, MAX_INT)
    name = "original_max_position_embeddings"
    original = values[name] if name in values else rope.get(name, stated)
    context = _number(path, name, original) * _number(path, "rope factor", factor)
    if context < 1:
        raise CheckpointError(f"{path}: factor {factor} of {original} positions leaves none")
    return int(min(context, MAX_INT))


def _rope(path: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """The rotary parameters that a config states, its ``rope_type`` always among them.

    The old names stand for the new ones, as in transformers: ``rope_scaling`` for
    ``rope_parameters``, ``type`` for ``rope_type``. Raises CheckpointError.
    """
    rope = values.get("rope_scaling") or values.get("rope_parameters") or {}
    if not isinstance(rope, dict):
        raise CheckpointError(f"{path}: the rope parameters are {rope!r}, not an object")
    return {"rope_type": rope.get("type", "default"), **rope}


def _count(path: Path, values: Mapping[str, Any], name: str) -> int:
    value = values.get(name, DEFAULTS.get(str(values.get("model_type")), {}).get(name))
    if type(value) is not int or value < 1:
        raise CheckpointError(f"{path}: {name} is {value!r}, not a positive integer")
    return value


def _number(path: Path, name: str, value: Any) -> float:
    if type(value) not in (int, float) or not 0 < value < 2**63:
        raise CheckpointError(f"{path}: {name} is {value!r}, not a positive number")
    return float(value)
