"""What a load gives: the same model however it is stored, a fingerprint, a name, progress."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from stepserve.modelfiles.directory import CheckpointError
from tests.checkpoints import lone_logits, make_checkpoint
from tests.worker_svc.model.conftest import CheckpointOf
from tests.worker_svc.model.paged import PagedModel, random_tokens
from worker_svc.kernels import select
from worker_svc.model.decoder import Decoder
from worker_svc.model.loading import load_model
from worker_svc.model.weights import EMBEDDING, VOCABULARY

TORCH = select("torch", "cpu")


def load(source: Path | str, dtype: str = "float32") -> Decoder:
    return load_model(source, dtype, "cpu", TORCH)


def logits_of(model: Decoder) -> Tensor:
    prompt = random_tokens(model.config.vocab_size, 20, seed=1)
    paged = PagedModel(model, [prompt], block_size=8, seed=1)
    return paged.step([(paged.sequences[0], 20)])


def assert_equal_at(model: Decoder, directory: Path, length: int) -> None:
    """Logits at every position of a prompt of ``length`` tokens are transformers'."""
    prompt = random_tokens(model.config.vocab_size, length, seed=2)
    paged = PagedModel(model, [prompt], block_size=16, seed=2)
    got = paged.step([(paged.sequences[0], length)])
    torch.testing.assert_close(got, lone_logits(directory, prompt), rtol=0, atol=1e-6)


def rewrite_config(directory: Path, **values: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def rename(directory: Path, name: str, new_name: str) -> None:
    """Rename a tensor in the file that holds it and in the index, where there is one."""
    for file in directory.glob("*.safetensors"):
        tensors = load_file(file)
        renamed = {new_name if key == name else key: value for key, value in tensors.items()}
        save_file(renamed, file, metadata={"format": "pt"})
    index = directory / "model.safetensors.index.json"
    if index.exists():
        content = json.loads(index.read_text())
        content["weight_map"][new_name] = content["weight_map"].pop(name)
        index.write_text(json.dumps(content))


def test_a_model_says_what_it_is(checkpoint_of: CheckpointOf) -> None:
    directory = checkpoint_of("llama")
    model = load(directory)
    assert model.name == directory.name
    assert model.dtype == torch.float32
    assert model.config.num_layers == 3
    assert model.cache_shape(16).bytes_per_block == 3 * 2 * 2 * 16 * 16 * 4


def test_shards_make_no_difference(tmp_path: Path) -> None:
    whole = load(make_checkpoint(tmp_path / "whole", "qwen3-tied", seed=3))
    directory = make_checkpoint(tmp_path / "shards", "qwen3-tied", seed=3, max_shard_size="30KB")
    assert len(list(directory.glob("*.safetensors"))) > 3
    sharded = load(directory)
    assert torch.equal(logits_of(whole), logits_of(sharded))
    assert whole.fingerprint == sharded.fingerprint


def test_the_fingerprint_is_of_weights_config_and_dtype(
    checkpoint_of: CheckpointOf, tmp_path: Path
) -> None:
    directory = Path(shutil.copytree(checkpoint_of("llama"), tmp_path / "copy"))
    seen = [load(checkpoint_of("llama")).fingerprint]
    assert load(directory).fingerprint == seen[0]
    seen.append(load(directory, "float64").fingerprint)
    tensors = load_file(directory / "model.safetensors")
    tensors["model.norm.weight"][5] += 1e-6
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    seen.append(load(directory).fingerprint)
    config = json.loads((directory / "config.json").read_text())
    config["rms_norm_eps"] = 1e-5
    (directory / "config.json").write_text(json.dumps(config))
    seen.append(load(directory).fingerprint)
    assert len(set(seen)) == 4
    config |= {"max_position_embeddings": 300, "eos_token_id": [5, 6]}
    (directory / "config.json").write_text(json.dumps(config))
    assert load(directory).fingerprint == seen[-1]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_files_in_float32(tmp_path: Path, dtype: str) -> None:
    directory = make_checkpoint(tmp_path / dtype, "qwen2-tied", seed=4, dtype=dtype)
    stored = load(directory)
    wide = tmp_path / "wide"
    shutil.copytree(directory, wide)
    tensors = load_file(wide / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {getattr(torch, dtype)}
    widened = {name: tensor.float() for name, tensor in tensors.items()}
    save_file(widened, wide / "model.safetensors", metadata={"format": "pt"})
    assert stored.dtype == torch.float32
    assert torch.equal(logits_of(stored), logits_of(load(wide)))
    assert load(directory, "auto").dtype == torch.float32


def test_a_vocabulary_beside_a_tied_config_is_used(tmp_path: Path) -> None:
    # As in transformers: two different matrices are not tied, whatever the config says.
    directory = make_checkpoint(tmp_path, "qwen2-tied", seed=5)
    tied = logits_of(load(directory))
    tensors = load_file(directory / "model.safetensors")
    tensors["lm_head.weight"] = 2 * tensors["model.embed_tokens.weight"]
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    torch.testing.assert_close(logits_of(load(directory)), 2 * tied)


@pytest.mark.parametrize("max_shard_size", ["5GB", "30KB"])
@pytest.mark.parametrize("stored", [EMBEDDING, VOCABULARY])
def test_tied_matrices_are_the_one_that_is_stored(
    tmp_path: Path, stored: str, max_shard_size: str
) -> None:
    directory = make_checkpoint(tmp_path, "qwen2-tied", seed=5, max_shard_size=max_shard_size)
    rename(directory, EMBEDDING, stored)
    model = load(directory, "float64")
    prompt = random_tokens(model.config.vocab_size, 20, seed=1)
    torch.testing.assert_close(logits_of(model), lone_logits(directory, prompt), rtol=0, atol=1e-6)


def test_matrices_that_are_not_tied_are_both_needed(tmp_path: Path) -> None:
    directory = make_checkpoint(tmp_path, "llama", seed=5)
    tensors = load_file(directory / "model.safetensors")
    del tensors[VOCABULARY]
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=f"lacks tensor {VOCABULARY}"):
        load(directory)


def test_an_index_may_name_a_tied_tensor_that_nobody_wrote(tmp_path: Path) -> None:
    directory = make_checkpoint(tmp_path, "qwen2-tied", seed=5, max_shard_size="30KB")
    expected = load(directory)
    index = directory / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"][VOCABULARY] = content["weight_map"]["model.norm.weight"]
    index.write_text(json.dumps(content))
    assert load(directory).fingerprint == expected.fingerprint


def test_a_tensor_may_lie_in_another_shard_than_the_index_says(tmp_path: Path) -> None:
    directory = make_checkpoint(tmp_path, "llama", seed=5, max_shard_size="50KB")
    index = directory / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    shard_of = content["weight_map"]
    shards = list(shard_of.values())
    name = next(name for name, shard in shard_of.items() if shards.count(shard) > 1)
    shard_of[name] = next(shard for shard in shards if shard != shard_of[name])
    index.write_text(json.dumps(content))
    assert_equal_at(load(directory, "float64"), directory, 20)


def test_a_tensor_of_no_use_is_said_and_left_out(
    checkpoint_of: CheckpointOf, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = Path(shutil.copytree(checkpoint_of("llama"), tmp_path / "copy"))
    tensors = load_file(directory / "model.safetensors")
    tensors["model.layers.3.mlp.up_proj.weight"] = torch.zeros(3)
    tensors["model.layers.0.self_attn.q_proj.bias"] = torch.zeros(3, dtype=torch.int8)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    assert load(directory).fingerprint == load(checkpoint_of("llama")).fingerprint
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    named = "model.layers.0.self_attn.q_proj.bias (and 1 more)"
    assert record.getMessage() == f"{directory}: this model has no use for tensor {named}"


ORIGINAL = 256
SCALINGS: dict[str, dict[str, Any]] = {
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": ORIGINAL},
    "yarn in the old words": {"type": "yarn", "factor": 4.0},
    "linear": {"type": "linear", "factor": 2.0},
}


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("variant", ["llama", "qwen3-tied", "mistral-window"])
def test_a_lengthened_context_is_computed_as_transformers_does(
    tmp_path: Path, variant: str, scaling: str
) -> None:
    directory = make_checkpoint(tmp_path, variant, seed=6)
    rewrite_config(
        directory,
        max_position_embeddings=ORIGINAL,
        rope_parameters=None,
        rope_scaling=SCALINGS[scaling],
    )
    model = load(directory, "float64")
    assert model.config.max_context == ORIGINAL * SCALINGS[scaling]["factor"]
    assert_equal_at(model, directory, ORIGINAL + 150)


@pytest.mark.parametrize("scaling", ["llama3", "none"])
def test_a_longer_context_that_was_asked_for_is_computed_as_transformers_does(
    tmp_path: Path, scaling: str, caplog: pytest.LogCaptureFixture
) -> None:
    directory = make_checkpoint(tmp_path, "llama3-rope" if scaling == "llama3" else "llama")
    rewrite_config(directory, max_position_embeddings=ORIGINAL)
    model = load_model(directory, "float64", "cpu", TORCH, max_context=500)
    assert model.config.max_context == 500
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "--max-context 500 is longer than the 256 tokens" in record.getMessage()
    assert model.fingerprint == load(directory, "float64").fingerprint
    assert_equal_at(model, directory, 450)


def test_a_shorter_context_is_no_reason_to_warn(
    checkpoint_of: CheckpointOf, caplog: pytest.LogCaptureFixture
) -> None:
    model = load_model(checkpoint_of("llama"), "float32", "cpu", TORCH, max_context=64)
    assert model.config.max_context == 64
    assert caplog.records == []


def test_frequencies_in_old_files_are_ignored(checkpoint_of: CheckpointOf, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(checkpoint_of("llama"), tmp_path / "copy"))
    tensors = load_file(directory / "model.safetensors")
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(8)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    assert load(directory).fingerprint == load(checkpoint_of("llama")).fingerprint


def test_matrices_larger_than_a_cache_give_the_same_logits(
    checkpoint_of: CheckpointOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = logits_of(load(checkpoint_of("qwen3-tied"), "float64"))
    monkeypatch.setattr("worker_svc.model.weights.MAX_ROW_MAJOR_BYTES", 0)
    large = logits_of(load(checkpoint_of("qwen3-tied"), "float64"))
    torch.testing.assert_close(small, large, rtol=0, atol=1e-6)


def test_a_hub_id_that_is_cached(
    checkpoint_of: CheckpointOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "models--someone--some-model"
    shutil.copytree(checkpoint_of("llama"), repository / "snapshots" / "abc123")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc123")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    model = load("someone/some-model")
    assert model.name == "some-model"
    assert model.fingerprint == load(checkpoint_of("llama")).fingerprint
