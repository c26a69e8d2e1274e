"""What each family's public repositories say, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from tokenizers import Tokenizer

from tests.published import templates
from tests.published.vocabularies import (
    LLAMA3_SPLIT,
    QWEN2_SPLIT,
    byte_level,
    sentencepiece_bpe,
)


@dataclass(frozen=True, slots=True)
class Layout:
    """One repository. Token ids in ``config`` and ``generation`` are written as token texts."""

    tokenizer: Callable[[], Tokenizer]
    config: dict[str, Any]
    settings: dict[str, Any]  # tokenizer_config.json
    generation: dict[str, Any] | None = None
    num_spare_ids: int = 0  # rows of the embeddings that no token has
    has_sentencepiece: bool = False
    has_merges: bool = False
    is_sharded: bool = False


def _llama(eos: Any, bos: Any, max_positions: int, **more: Any) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "bos_token_id": bos,
        "eos_token_id": eos,
        "max_position_embeddings": max_positions,
        "model_type": "llama",
        "pretraining_tp": 1,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        **more,
    }


_SENTENCEPIECE = {
    "add_bos_token": True,
    "add_eos_token": False,
    "bos_token": "<s>",
    "clean_up_tokenization_spaces": False,
    "eos_token": "</s>",
    "legacy": False,
    "pad_token": None,
    "sp_model_kwargs": {},
    "tokenizer_class": "LlamaTokenizer",
    "unk_token": "<unk>",
    "use_default_system_prompt": False,
}
_SENTENCEPIECE_ENDS = {"bos_token_id": "<s>", "eos_token_id": "</s>"}


def _llama2(settings: dict[str, Any], max_positions: int = 4096, **config: Any) -> Layout:
    return Layout(
        sentencepiece_bpe,
        _llama("</s>", "<s>", max_positions, **config),
        {**_SENTENCEPIECE, **settings},
        {**_SENTENCEPIECE_ENDS, "pad_token_id": 0},
        has_sentencepiece=True,
    )


def _mistral(settings: dict[str, Any], controls: tuple[str, ...] = (), **config: Any) -> Layout:
    values: dict[str, Any] = {
        "architectures": ["MistralForCausalLM"],
        "attention_dropout": 0.0,
        "bos_token_id": "<s>",
        "eos_token_id": "</s>",
        "max_position_embeddings": 32768,
        "model_type": "mistral",
        "rope_theta": 1000000.0,
        "sliding_window": None,
        "tie_word_embeddings": False,
    }
    return Layout(
        partial(sentencepiece_bpe, controls),
        {**values, **config},
        {**_SENTENCEPIECE, "legacy": True, "additional_special_tokens": [], **settings},
        _SENTENCEPIECE_ENDS,
        has_sentencepiece=True,
    )


_LLAMA3_TOKENS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|reserved_special_token_0|>",
    "<|finetune_right_pad_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
)
_LLAMA3_ROPE = {
    "factor": 8.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}
_LLAMA3_ENDS = ["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"]


def _llama3(
    eos_token: str, ends: Any, generation_ends: Any, chat_template: str = "", **config: Any
) -> Layout:
    settings = {
        "bos_token": "<|begin_of_text|>",
        "clean_up_tokenization_spaces": True,
        "eos_token": eos_token,
        "model_input_names": ["input_ids", "attention_mask"],
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    if chat_template:
        settings["chat_template"] = chat_template
    return Layout(
        partial(byte_level, _LLAMA3_TOKENS, LLAMA3_SPLIT, bos="<|begin_of_text|>"),
        _llama(ends, "<|begin_of_text|>", **{"max_positions": 8192, "rope_theta": 5e5, **config}),
        settings,
        {"bos_token_id": "<|begin_of_text|>", "eos_token_id": generation_ends},
        num_spare_ids=3,
    )


_CHATML_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_QWEN25_TOKENS = (*_CHATML_TOKENS, "<|object_ref_start|>", "<|vision_start|>", "<|image_pad|>")
_QWEN25_PLAIN = ("<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|repo_name|>")
_QWEN3_PLAIN = (*_QWEN25_PLAIN, "<think>", "</think>")


def _qwen(
    version: int,
    tokens: tuple[tuple[str, ...], tuple[str, ...]],
    eos: str,
    chat_template: str = templates.CHATML,
    **config: Any,
) -> Layout:
    specials, plain = tokens
    values: dict[str, Any] = {
        "architectures": [f"Qwen{version}ForCausalLM"],
        "attention_dropout": 0.0,
        "bos_token_id": "<|endoftext|>",
        "eos_token_id": eos,
        "max_position_embeddings": 32768,
        "max_window_layers": 2,
        "model_type": f"qwen{version}",
        "rope_theta": 1000000.0,
        "sliding_window": 32768,
        "tie_word_embeddings": False,
        "use_sliding_window": False,
        **({"head_dim": 32, "attention_bias": False} if version == 3 else {}),
    }
    settings = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "additional_special_tokens": list(specials[1:]),
        "bos_token": None,
        "chat_template": chat_template,
        "clean_up_tokenization_spaces": False,
        "eos_token": eos,
        "errors": "replace",
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    ends = ["<|im_end|>", "<|endoftext|>"] if eos == "<|im_end|>" else "<|endoftext|>"
    return Layout(
        partial(byte_level, specials, QWEN2_SPLIT, plain),
        {**values, **config},
        settings,
        {"bos_token_id": "<|endoftext|>", "pad_token_id": "<|endoftext|>", "eos_token_id": ends},
        num_spare_ids=7,
        has_merges=True,
    )


def _smollm2(bos: str, eos: str, pad: str | None, **settings: Any) -> Layout:
    named = {"bos_token": bos, "eos_token": eos, "unk_token": "<|endoftext|>"}
    common = {
        "add_prefix_space": False,
        "additional_special_tokens": [*_CHATML_TOKENS[1:], "<repo_name>"],
        "clean_up_tokenization_spaces": False,
        "tokenizer_class": "GPT2Tokenizer",
        **({"pad_token": pad} if pad else {}),
    }
    return Layout(
        partial(byte_level, (*_CHATML_TOKENS, "<repo_name>")),
        _llama(eos, bos, 8192, tie_word_embeddings=True, rope_theta=100000),
        {**common, **named, **settings},
        {"bos_token_id": bos, "eos_token_id": eos},
        has_merges=True,
    )


def _distilled() -> Layout:
    """Of Qwen2's model, with a byte-level tokenizer that calls itself Llama's."""
    ends = ("<｜end▁of▁sentence｜>", "<｜begin▁of▁sentence｜>")
    plain = ("<｜User｜>", "<｜Assistant｜>", "<think>", "</think>")
    qwen = _qwen(2, ((*ends, "<|endoftext|>"), plain), "<|endoftext|>")
    bos, eos = ({"__type": "AddedToken", "content": end, "normalized": True} for end in ends[::-1])
    return Layout(
        partial(byte_level, ends, QWEN2_SPLIT, plain, ends[1]),
        {**qwen.config, "bos_token_id": ends[1], "eos_token_id": ends[0]},
        {
            "add_bos_token": True,
            "add_eos_token": False,
            "bos_token": bos,
            "chat_template": templates.DEEPSEEK,
            "clean_up_tokenization_spaces": False,
            "eos_token": eos,
            "legacy": True,
            "pad_token": eos,
            "sp_model_kwargs": {},
            "tokenizer_class": "LlamaTokenizerFast",
            "unk_token": None,
        },
        {"bos_token_id": ends[1], "eos_token_id": ends[0]},
    )


def _nemo() -> Layout:
    config = _mistral({}).config
    controls = ("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "<pad>")
    return Layout(
        partial(byte_level, controls, LLAMA3_SPLIT, bos="<s>"),
        {**config, "head_dim": 32, "max_position_embeddings": 131072},
        {
            "add_bos_token": True,
            "add_eos_token": False,
            "bos_token": "<s>",
            "chat_template": templates.MISTRAL,
            "clean_up_tokenization_spaces": False,
            "eos_token": "</s>",
            "tokenizer_class": "PreTrainedTokenizerFast",
            "unk_token": "<unk>",
        },
        _SENTENCEPIECE_ENDS,
        is_sharded=True,
    )


_QWEN2 = (_CHATML_TOKENS, ())
_QWEN25 = (_QWEN25_TOKENS, _QWEN25_PLAIN)
_QWEN3 = (_QWEN25_TOKENS, _QWEN3_PLAIN)
_SLIDING = {"sliding_window": 4096, "rope_theta": 10000.0}

LAYOUTS: dict[str, Layout] = {
    "Llama-2-7b-hf": _llama2({}),
    "Llama-2-7b-chat-hf": _llama2({"chat_template": templates.LLAMA2}),
    "TinyLlama-1.1B-intermediate-step": _llama2({"legacy": True}, max_positions=2048),
    "TinyLlama-1.1B-Chat-v1.0": _llama2(
        {"chat_template": templates.ZEPHYR, "pad_token": "</s>"}, max_positions=2048
    ),
    "Meta-Llama-3-8B": _llama3("<|end_of_text|>", "<|end_of_text|>", "<|end_of_text|>"),
    "Meta-Llama-3-8B-Instruct": _llama3(
        "<|eot_id|>", "<|eot_id|>", ["<|end_of_text|>", "<|eot_id|>"], templates.LLAMA3
    ),
    "Llama-3.1-8B-Instruct": _llama3(
        "<|eot_id|>",
        _LLAMA3_ENDS,
        _LLAMA3_ENDS,
        templates.LLAMA31,
        max_positions=131072,
        rope_scaling=_LLAMA3_ROPE,
        mlp_bias=False,
    ),
    "Llama-3.2-1B": _llama3(
        "<|end_of_text|>",
        "<|end_of_text|>",
        "<|end_of_text|>",
        max_positions=131072,
        rope_scaling={**_LLAMA3_ROPE, "factor": 32.0},
        tie_word_embeddings=True,
        head_dim=16,
    ),
    "Llama-3.2-1B-Instruct": _llama3(
        "<|eot_id|>",
        _LLAMA3_ENDS,
        _LLAMA3_ENDS,
        templates.LLAMA31,
        max_positions=131072,
        rope_scaling={**_LLAMA3_ROPE, "factor": 32.0},
        tie_word_embeddings=True,
        head_dim=16,
    ),
    "Mistral-7B-v0.1": _mistral({}, **_SLIDING),
    "Mistral-7B-Instruct-v0.1": _mistral({"chat_template": templates.MISTRAL}, **_SLIDING),
    "Mistral-7B-Instruct-v0.2": _mistral({"chat_template": templates.MISTRAL}),
    "Mistral-7B-Instruct-v0.3": _mistral(
        {"chat_template": templates.MISTRAL, "legacy": False}, ("[INST]", "[/INST]", "[TOOL_CALLS]")
    ),
    "Mistral-Nemo-Instruct-2407": _nemo(),
    "Qwen2-0.5B": _qwen(2, _QWEN2, "<|endoftext|>", tie_word_embeddings=True),
    "Qwen2-7B-Instruct": _qwen(2, _QWEN2, "<|im_end|>"),
    "Qwen2.5-0.5B-Instruct": _qwen(2, _QWEN25, "<|im_end|>", tie_word_embeddings=True),
    "Qwen2.5-7B": _qwen(2, _QWEN25, "<|endoftext|>", max_position_embeddings=131072),
    "Qwen2.5-Coder-7B-Instruct": _qwen(2, _QWEN25, "<|im_end|>"),
    "Qwen3-0.6B": _qwen(
        3,
        _QWEN3,
        "<|im_end|>",
        templates.QWEN3,
        tie_word_embeddings=True,
        max_position_embeddings=40960,
        sliding_window=None,
    ),
    "Qwen3-8B-Base": _qwen(3, _QWEN3, "<|endoftext|>", templates.QWEN3, sliding_window=None),
    "SmolLM2-135M": _smollm2("<|endoftext|>", "<|endoftext|>", None),
    "SmolLM2-135M-Instruct": _smollm2(
        "<|im_start|>", "<|im_end|>", "<|im_end|>", chat_template=templates.CHATML
    ),
    "DeepSeek-R1-Distill-Qwen-1.5B": _distilled(),
}
