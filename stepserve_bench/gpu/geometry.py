"""The shapes of models that are measured, and what one token and one step of them cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

BEGIN_TOKEN_ID, END_TOKEN_ID = 0, 1


@dataclass(frozen=True)
class Geometry:
    """A decoder's sizes under the names of transformers' ``config.json``; all in elements.

    ``more`` are further entries of the config: a window, biases.
    """

    name: str
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    tie_word_embeddings: bool
    family: str = "Qwen3"
    max_position_embeddings: int = 40960
    dtype: str = "bfloat16"
    more: tuple[tuple[str, Any], ...] = ()

    def config(self) -> dict[str, Any]:
        """What ``config.json`` says."""
        sizes = {
            name: getattr(self, name)
            for name in (
                "hidden_size",
                "intermediate_size",
                "num_hidden_layers",
                "num_attention_heads",
                "num_key_value_heads",
                "head_dim",
                "vocab_size",
                "tie_word_embeddings",
                "max_position_embeddings",
                "dtype",
            )
        }
        return {
            "architectures": [f"{self.family}ForCausalLM"],
            "model_type": self.family.lower(),
            "hidden_act": "silu",
            "rms_norm_eps": 1e-6,
            "rope_theta": 1e6,
            "bos_token_id": BEGIN_TOKEN_ID,
            "eos_token_id": END_TOKEN_ID,
            **sizes,
            **dict(self.more),
        }

    @cached_property
    def layer_parameters(self) -> int:
        """Numbers in one layer's matrices."""
        heads = 2 * (self.num_attention_heads + self.num_key_value_heads) * self.head_dim
        return self.hidden_size * (heads + 3 * self.intermediate_size)

    @property
    def vocabulary_parameters(self) -> int:
        """Numbers in the matrix that makes logits."""
        return self.vocab_size * self.hidden_size

    @property
    def step_weight_bytes(self) -> int:
        """Bytes of weights that every step reads: the embedding is read by single lines."""
        layers = self.num_hidden_layers * self.layer_parameters
        return self.itemsize * (layers + self.vocabulary_parameters)

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of keys and values of one token in all layers."""
        per_layer = 2 * self.num_key_value_heads * self.head_dim * self.itemsize
        return self.num_hidden_layers * per_layer

    @property
    def itemsize(self) -> int:
        """Bytes of a number."""
        return 4 if self.dtype == "float32" else 2

    def step_flops(self, rows: Sequence[tuple[int, int]]) -> float:
        """Operations of a step whose rows compute (tokens, context); logits for one a row."""
        tokens = sum(count for count, _ in rows)
        dense = 2 * self.num_hidden_layers * self.layer_parameters * tokens
        logits = 2 * self.vocabulary_parameters * len(rows)
        heads = self.num_attention_heads * self.head_dim
        return dense + logits + self.num_hidden_layers * attention_flops(rows, heads)


def attention_flops(rows: Sequence[tuple[int, int]], heads_times_dim: int) -> float:
    """Operations of one layer's causal attention for rows of (tokens, context)."""
    pairs = sum(n * (context - n) + n * (n + 1) / 2 for n, context in rows)
    return 4 * heads_times_dim * pairs


QWEN3_06B = Geometry(
    name="0.6B",
    hidden_size=1024,
    intermediate_size=3072,
    num_hidden_layers=28,
    num_attention_heads=16,
    num_key_value_heads=8,
    head_dim=128,
    vocab_size=151936,
    tie_word_embeddings=True,
)
QWEN3_8B = Geometry(
    name="8B",
    hidden_size=4096,
    intermediate_size=12288,
    num_hidden_layers=36,
    num_attention_heads=32,
    num_key_value_heads=8,
    head_dim=128,
    vocab_size=151936,
    tie_word_embeddings=False,
)
# Its context is cut: a cache for all of it would fill a small machine's memory.
SMOLLM2_135M = Geometry(
    name="SmolLM2-135M",
    family="Llama",
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    head_dim=64,
    vocab_size=49152,
    tie_word_embeddings=True,
    max_position_embeddings=1024,
    dtype="float32",
)
# For a run on a machine without a GPU, which shows that everything runs and nothing of speed.
TINY = Geometry(
    name="tiny",
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    vocab_size=1000,
    tie_word_embeddings=True,
    max_position_embeddings=512,
    dtype="float32",
)


def _small(name: str, family: str, heads: tuple[int, int], **more: Any) -> Geometry:
    return Geometry(
        name=name,
        family=family,
        hidden_size=96,
        intermediate_size=200,
        num_hidden_layers=3,
        num_attention_heads=heads[0],
        num_key_value_heads=heads[1],
        head_dim=32,
        vocab_size=509,
        tie_word_embeddings=family == "Qwen2",
        max_position_embeddings=1024,
        dtype="float32",
        more=tuple(more.items()),
    )


# One of each family, each with what sets it apart: biases, a window, normed heads.
FAMILIES = (
    _small("llama", "Llama", (6, 2), attention_bias=True, mlp_bias=True),
    _small("mistral", "Mistral", (4, 1), sliding_window=24),
    _small("qwen2", "Qwen2", (3, 3)),
    _small("qwen3", "Qwen3", (8, 2)),
)
