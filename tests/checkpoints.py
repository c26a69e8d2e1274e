"""Small checkpoints of every kind that is served, and the oracle: transformers, one job alone.

Weights are random, large enough that logits are well apart and attention matters.
"""

from __future__ import annotations

import json
import string
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

EOS_TOKEN_ID = 0
EOS_TOKEN = "</s>"
MIN_VOCAB_SIZE = 257
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def _sizes(
    heads: tuple[int, int], hidden_size: int, vocab_size: int, **more: Any
) -> dict[str, Any]:
    num_heads, num_kv_heads = heads
    return {
        "num_attention_heads": num_heads,
        "num_key_value_heads": num_kv_heads,
        "hidden_size": hidden_size,
        "intermediate_size": 2 * hidden_size + 8,
        "num_hidden_layers": 3,
        "vocab_size": vocab_size,
        "max_position_embeddings": 512,
        "bos_token_id": None,
        "eos_token_id": EOS_TOKEN_ID,
        **more,
    }


def _llama3_rope() -> dict[str, Any]:
    return {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }


def _yarn_rope() -> dict[str, Any]:
    return {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 128,
    }


# By name: what makes the config. Heads are (query heads, key-value heads).
VARIANTS: dict[str, Callable[[], PreTrainedConfig]] = {
    "llama": lambda: LlamaConfig(**_sizes((4, 2), 64, 257)),
    "llama-single-kv-tied": lambda: LlamaConfig(
        **_sizes((3, 1), 48, 509, tie_word_embeddings=True)
    ),
    "llama3-rope": lambda: LlamaConfig(**_sizes((5, 5), 80, 257, rope_parameters=_llama3_rope())),
    "llama-biases": lambda: LlamaConfig(
        **_sizes(
            (6, 2),
            96,
            509,
            attention_bias=True,
            mlp_bias=True,
            rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0},
        )
    ),
    "llama-yarn": lambda: LlamaConfig(**_sizes((4, 4), 64, 257, rope_parameters=_yarn_rope())),
    "mistral": lambda: MistralConfig(**_sizes((4, 1), 48, 257, head_dim=32, sliding_window=None)),
    "mistral-window": lambda: MistralConfig(
        **_sizes((3, 1), 64, 509, head_dim=24, sliding_window=7)
    ),
    "qwen2-tied": lambda: Qwen2Config(**_sizes((4, 2), 64, 509, tie_word_embeddings=True)),
    "qwen2-window": lambda: Qwen2Config(
        **_sizes((5, 1), 80, 257, use_sliding_window=True, sliding_window=9, max_window_layers=1)
    ),
    "qwen3-tied": lambda: Qwen3Config(
        **_sizes((4, 2), 48, 257, head_dim=32, tie_word_embeddings=True)
    ),
    "qwen3-layer-types": lambda: Qwen3Config(
        **_sizes(
            (6, 3),
            64,
            509,
            head_dim=16,
            attention_bias=True,
            use_sliding_window=True,
            sliding_window=5,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        )
    ),
}


def make_checkpoint(
    directory: Path,
    variant: str,
    seed: int = 0,
    dtype: str = "float32",
    max_shard_size: str = "5GB",
) -> Path:
    """Write a checkpoint of ``VARIANTS[variant]`` with random weights into ``directory``."""
    model = AutoModelForCausalLM.from_config(VARIANTS[variant]())
    randomize(model, seed)
    model.to(getattr(torch, dtype)).save_pretrained(directory, max_shard_size=max_shard_size)
    return directory


def randomize(model: torch.nn.Module, seed: int) -> None:
    """Draw every weight of ``model`` anew."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(_random_weight(name, weight, generator))


def _random_weight(name: str, weight: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.randn(weight.shape, generator=generator)
    if name.endswith("bias"):
        return 0.3 * noise
    if weight.dim() == 1:
        return 1.0 + 0.2 * noise
    if "embed_tokens" in name or "lm_head" in name:
        return noise * (3.0 / weight.shape[1] ** 0.5)
    return noise * (1.5 / weight.shape[1] ** 0.5)


def add_tokenizer(directory: Path, vocab_size: int) -> Path:
    """Write a byte-level tokenizer in which every id below ``vocab_size`` is a token.

    Id 0 ends a text; 1 to 256 are the bytes; then pairs of letters, as many as fit; then fillers
    that no text becomes. The least ``vocab_size`` is 257.
    """
    if vocab_size < MIN_VOCAB_SIZE:
        raise ValueError(f"a byte-level tokenizer needs {MIN_VOCAB_SIZE} ids, not {vocab_size}")
    names = [EOS_TOKEN, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    letters = string.ascii_lowercase
    pairs = [(first, second) for first in letters for second in letters]
    merges = pairs[: vocab_size - len(names)]
    names += [first + second for first, second in merges]
    names += [f"<filler-{token_id}>" for token_id in range(len(names), vocab_size)]
    vocab = {name: token_id for token_id, name in enumerate(names)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([EOS_TOKEN])
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": EOS_TOKEN,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2))
    return directory


@dataclass(frozen=True, slots=True)
class LoneRun:
    """What a job alone generates: per output offset the token, its log-probability, the margin.

    ``margins`` is the chosen token's logit less the next best one's: where it is small, another
    order of the same sums may choose otherwise.
    """

    tokens: list[int]
    logprobs: list[float]
    margins: list[float]

    def is_over(self, max_tokens: int, stop_token_ids: Collection[int]) -> bool:
        """Whether it has all tokens, or a stop token."""
        return len(self.tokens) >= max_tokens or (
            bool(self.tokens) and self.tokens[-1] in stop_token_ids
        )

    def choose(self, logits: Tensor) -> int:
        """Append the likeliest token, by ``[vocab_size]`` logits, and return it."""
        logits = logits.double()
        best = logits.topk(2)
        token = int(best.indices[0])
        self.tokens.append(token)
        self.logprobs.append(float(logits.log_softmax(-1)[token]))
        self.margins.append(float(best.values[0] - best.values[1]))
        return token


@lru_cache(maxsize=8)
def oracle(directory: Path, dtype: str) -> Any:
    """The checkpoint as transformers runs it, computing in ``dtype``."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=getattr(torch, dtype))
    return model.eval()


@torch.inference_mode()
def lone_logits(directory: Path, token_ids: Sequence[int], dtype: str = "float64") -> Tensor:
    """Logits ``[T, vocab_size]`` of every position, from one forward pass without a cache."""
    logits: Tensor = oracle(directory, dtype)(
        torch.tensor([list(token_ids)]), use_cache=False
    ).logits
    return logits[0]


@torch.inference_mode()
def lone_greedy(
    directory: Path,
    prompt_ids: Sequence[int],
    max_tokens: int,
    dtype: str = "float64",
    stop_token_ids: Collection[int] = (EOS_TOKEN_ID,),
) -> LoneRun:
    """Generate greedily after ``prompt_ids``, one job alone; a stop token is the last token.

    With ``stop_token_ids=()`` (ignore_eos) exactly ``max_tokens`` tokens are generated.
    """
    model = oracle(directory, dtype)
    cache = DynamicCache(config=model.config)
    run = LoneRun([], [], [])
    inputs = list(prompt_ids)
    while not run.is_over(max_tokens, stop_token_ids):
        output = model(torch.tensor([inputs]), past_key_values=cache, use_cache=True)
        inputs = [run.choose(output.logits[0, -1])]
    return run


def lone_check(
    directory: Path,
    prompt_ids: Sequence[int],
    token_ids: Sequence[int],
    dtype: str = "float64",
) -> LoneRun:
    """What a job alone generates as long as it is ``token_ids``, and its first other token.

    By induction the beginning of ``lone_greedy``: the likeliest token after the prompt and after
    each further token; from one forward pass over all of them, many times as fast.
    """
    logits = lone_logits(directory, [*prompt_ids, *token_ids[:-1]], dtype)[len(prompt_ids) - 1 :]
    run = LoneRun([], [], [])
    for token_id, row in zip(token_ids, logits, strict=True):
        if run.choose(row) != token_id:
            break
    return run
