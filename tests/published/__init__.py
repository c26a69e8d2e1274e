"""Checkpoints' directories as people publish them, made tiny.

Every file that the public repository of a family has for its model, tokenizer and
generation, with the same fields and layout; only sizes are small and weights random.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from tests.published.layouts import LAYOUTS, Layout
from tests.published.vocabularies import write_sentencepiece

__all__ = ["LAYOUTS", "publish"]


def publish(directory: Path, name: str, weights: bool = True, seed: int = 0) -> Path:
    """Write the directory of ``LAYOUTS[name]``; without weights that takes milliseconds."""
    layout = LAYOUTS[name]
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = layout.tokenizer()
    _write(directory / "config.json", _config(layout, tokenizer))
    if weights:
        _write_weights(directory, layout, seed)
    if layout.generation is not None:
        ids = {key: _ids(tokenizer, value) for key, value in layout.generation.items()}
        _write(directory / "generation_config.json", {**ids, "do_sample": True})
    _write_tokenizer(directory, layout, tokenizer)
    return directory


def _ids(tokenizer: Tokenizer, value: Any) -> Any:
    """Return a token's id for its text, of lists as well; anything else as it is."""
    if isinstance(value, list):
        return [_ids(tokenizer, item) for item in value]
    return tokenizer.token_to_id(value) if isinstance(value, str) else value


def _config(layout: Layout, tokenizer: Tokenizer) -> dict[str, Any]:
    tokens = ("bos_token_id", "eos_token_id", "pad_token_id")
    config = {
        "hidden_act": "silu",
        "hidden_size": 64,
        "initializer_range": 0.02,
        "intermediate_size": 136,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-05,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.43.1",
        "use_cache": True,
        **layout.config,
        "vocab_size": tokenizer.get_vocab_size() + layout.num_spare_ids,
    }
    return {
        key: _ids(tokenizer, value) if key in tokens else value for key, value in config.items()
    }


def _write_weights(directory: Path, layout: Layout, seed: int) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from tests.checkpoints import randomize

    written = (directory / "config.json").read_text()
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(directory))
    randomize(model, seed)
    shard_size = "100KB" if layout.is_sharded else "5GB"
    model.to(torch.float32).save_pretrained(directory, max_shard_size=shard_size)
    (directory / "generation_config.json").unlink(missing_ok=True)
    (directory / "config.json").write_text(written)


def _write_tokenizer(directory: Path, layout: Layout, tokenizer: Tokenizer) -> None:
    tokenizer.save(str(directory / "tokenizer.json"))
    saved = json.loads(tokenizer.to_str())
    added = {
        str(token.pop("id")): token for token in [dict(token) for token in saved["added_tokens"]]
    }
    settings = {"added_tokens_decoder": added, "model_max_length": 131072, **layout.settings}
    _write(directory / "tokenizer_config.json", settings)
    named = {key: value for key, value in layout.settings.items() if key.endswith("_token")}
    whole = {
        key: {**_plain(added, value), "content": value} for key, value in named.items() if value
    }
    _write(directory / "special_tokens_map.json", whole)
    if layout.has_sentencepiece:
        write_sentencepiece(directory / "tokenizer.model")
    if layout.has_merges:
        _write(directory / "vocab.json", saved["model"]["vocab"])
        lines = [" ".join(merge) for merge in saved["model"]["merges"]]
        (directory / "merges.txt").write_text("\n".join(["#version: 0.2", *lines, ""]))


def _plain(added: dict[str, Any], content: str) -> dict[str, Any]:
    """Return a token as special_tokens_map.json has it."""
    flags = ("lstrip", "normalized", "rstrip", "single_word")
    token = next((token for token in added.values() if token["content"] == content), {})
    return {flag: token.get(flag, False) for flag in flags}


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
