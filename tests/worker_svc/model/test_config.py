"""What is read from config.json, old and new."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from stepserve.modelfiles.directory import CheckpointError
from tests.checkpoints import VARIANTS
from worker_svc.model.config import read_config

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
QWEN2: dict[str, Any] = {**LLAMA, "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}
QWEN3: dict[str, Any] = {**LLAMA, "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}
MISTRAL: dict[str, Any] = {
    **LLAMA,
    "architectures": ["MistralForCausalLM"],
    "model_type": "mistral",
}


def write(directory: Path, config: dict[str, Any]) -> Path:
    (directory / "config.json").write_text(json.dumps(config))
    return directory


@pytest.mark.parametrize("variant", VARIANTS)
def test_rope_is_that_of_transformers(tmp_path: Path, variant: str) -> None:
    source = VARIANTS[variant]()
    model = AutoModelForCausalLM.from_config(source)
    source.architectures = [type(model).__name__]
    source.save_pretrained(tmp_path)
    config = read_config(tmp_path)
    rotary = model.model.rotary_emb
    assert torch.equal(torch.tensor(config.inv_freq), rotary.inv_freq)
    assert config.rope_scale == rotary.attention_scaling


def test_rope_in_the_old_words(tmp_path: Path) -> None:
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    old = {**LLAMA, "rope_theta": 5e5, "rope_scaling": scaling}
    new = {**LLAMA, "rope_parameters": {**scaling, "rope_theta": 5e5}}
    plain = read_config(write(tmp_path, {**LLAMA, "rope_theta": 5e5}))
    assert read_config(write(tmp_path / "old", old)) == read_config(write(tmp_path / "new", new))
    assert read_config(tmp_path / "old").inv_freq != plain.inv_freq
    assert plain.inv_freq[1] == pytest.approx(5e5 ** (-2 / 16))


@pytest.mark.parametrize(
    ("values", "windows"),
    [
        (LLAMA, (0, 0, 0, 0)),
        ({**LLAMA, "sliding_window": 9}, (0, 0, 0, 0)),
        ({**MISTRAL, "sliding_window": 9}, (9, 9, 9, 9)),
        ({**MISTRAL, "sliding_window": None}, (0, 0, 0, 0)),
        ({**QWEN2, "sliding_window": 9, "max_window_layers": 3}, (0, 0, 0, 0)),
        (
            {**QWEN2, "use_sliding_window": True, "sliding_window": 9, "max_window_layers": 3},
            (0, 0, 0, 9),
        ),
        (
            {
                **QWEN2,
                "use_sliding_window": True,
                "sliding_window": 9,
                "layer_types": ["sliding_attention", "full_attention"] * 2,
            },
            (9, 0, 9, 0),
        ),
    ],
)
def test_windows(tmp_path: Path, values: dict[str, Any], windows: tuple[int, ...]) -> None:
    assert read_config(write(tmp_path, values)).windows == windows


@pytest.mark.parametrize("window", [0, -1])
def test_a_window_of_nothing_is_refused(tmp_path: Path, window: int) -> None:
    with pytest.raises(CheckpointError, match=f"sliding_window {window}"):
        read_config(write(tmp_path, {**MISTRAL, "sliding_window": window}))


@pytest.mark.parametrize("values", [LLAMA, MISTRAL, QWEN2, QWEN3], ids=lambda v: v["model_type"])
def test_an_architecture_that_is_not_stated_is_the_types(
    tmp_path: Path, values: dict[str, Any]
) -> None:
    stated = read_config(write(tmp_path, values))
    for architectures in (None, [], values["architectures"][0]):
        assert read_config(write(tmp_path, {**values, "architectures": architectures})) == stated
    silent = {name: value for name, value in values.items() if name != "architectures"}
    assert read_config(write(tmp_path, silent)) == stated
    del silent["model_type"]
    with pytest.raises(CheckpointError, match="architecture none is not supported"):
        read_config(write(tmp_path, silent))


def test_a_context_that_is_not_stated_is_the_types(tmp_path: Path) -> None:
    del (silent := dict(LLAMA))["max_position_embeddings"]
    assert read_config(write(tmp_path, silent)).max_context == 2048


def test_a_lengthened_context_changes_frequencies_and_limit(tmp_path: Path) -> None:
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
    plain = read_config(write(tmp_path, LLAMA))
    longer = read_config(write(tmp_path, {**LLAMA, "rope_scaling": scaling}))
    assert (plain.max_context, longer.max_context) == (128, 512)
    assert longer.inv_freq != plain.inv_freq


def test_biases_and_head_dim(tmp_path: Path) -> None:
    config = read_config(write(tmp_path, {**LLAMA, "attention_bias": True, "head_dim": 32}))
    assert (config.qkv_bias, config.output_bias, config.mlp_bias) == (True, True, False)
    assert config.head_dim == 32
    config = read_config(write(tmp_path, {**QWEN2, "attention_bias": True, "mlp_bias": True}))
    assert (config.qkv_bias, config.output_bias, config.mlp_bias) == (True, False, False)
    config = read_config(write(tmp_path, {**MISTRAL, "attention_bias": True, "mlp_bias": True}))
    assert (config.qkv_bias, config.output_bias, config.mlp_bias) == (False, False, False)
    config = read_config(write(tmp_path, {**QWEN3, "attention_bias": True, "mlp_bias": True}))
    assert (config.qkv_bias, config.output_bias, config.mlp_bias) == (True, True, False)
    config = read_config(write(tmp_path, QWEN2))
    assert (config.qkv_bias, config.output_bias, config.qk_norm) == (True, False, False)
    assert config.head_dim == 16
