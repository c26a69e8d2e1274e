"""Checkpoints that can't be served are refused with one line that says which part and why."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file

from stepserve.modelfiles.directory import CheckpointError
from tests.checkpoints import make_checkpoint
from tests.worker_svc.model.conftest import CheckpointOf
from worker_svc.kernels import select
from worker_svc.model.loading import load_model

WEIGHTS = "model.safetensors"
Q_PROJ = "model.layers.1.self_attn.q_proj.weight"


@pytest.fixture
def copy(checkpoint_of: CheckpointOf, tmp_path: Path) -> Path:
    """A checkpoint that may be spoiled."""
    return Path(shutil.copytree(checkpoint_of("llama"), tmp_path / "copy"))


def refusal(source: str | Path, dtype: str = "float32") -> str:
    """The message that loading ``source`` ends with."""
    with pytest.raises(CheckpointError) as caught:
        load_model(source, dtype, "cpu", select("torch", "cpu"))
    message = str(caught.value)
    assert "\n" not in message
    return message


def change_tensors(directory: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(directory / WEIGHTS)
    change(tensors)
    save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})


def change_value(directory: Path, value: float) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[Q_PROJ][7, 3] = value

    change_tensors(directory, change)


def change_config(directory: Path, **values: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_no_such_directory(tmp_path: Path) -> None:
    assert refusal(tmp_path / "nothing") == f"{tmp_path}/nothing: no such directory"


def test_a_file_is_not_a_checkpoint(copy: Path) -> None:
    assert "is a file" in refusal(copy / WEIGHTS)


def test_a_hub_id_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    message = refusal("someone/some-model")
    assert message.startswith("someone/some-model: no such directory, and not available from")


def test_no_config(copy: Path) -> None:
    (copy / "config.json").unlink()
    assert refusal(copy) == f"{copy}/config.json: no such file"


@pytest.mark.parametrize("text", ["{", "[]", ""])
def test_broken_config(copy: Path, text: str) -> None:
    (copy / "config.json").write_text(text)
    assert f"{copy}/config.json" in refusal(copy)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel is not supported (Llama"),
        ({"architectures": ["Qwen3MoeForCausalLM"]}, "Qwen3MoeForCausalLM is not supported"),
        ({"architectures": None, "model_type": "gpt2"}, "architecture none is not supported"),
        ({"architectures": {"a": 1}}, "is not supported"),
        ({"model_type": "qwen3"}, "model_type 'qwen3'"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "rope type 'dynamic'"),
        ({"rope_parameters": {"rope_type": "longrope", "factor": 2.0}}, "longrope"),
        ({"rope_parameters": {"rope_type": "nope"}}, "rope type 'nope'"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": "4"}}, "rope factor is '4'"),
        ({"num_attention_heads": 0}, "by zero"),
        ({"head_dim": -1}, ""),
        ({"dtype": [1]}, ""),
        ({"eos_token_id": 2.0}, "eos_token_id"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"num_key_value_heads": 3}, "4 attention heads, 3 key-value heads"),
        ({"head_dim": 15}, "head_dim"),
        ({"num_hidden_layers": 0}, "at least 1"),
        ({"vocab_size": "many"}, "vocab_size"),
        ({"hidden_size": 66}, "66"),
        ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4}}, "factor"),
    ],
)
def test_configs_that_are_not_supported(copy: Path, values: dict[str, Any], expected: str) -> None:
    change_config(copy, **values)
    message = refusal(copy)
    assert message.startswith(f"{copy}/config.json: ")
    assert expected in message


def test_unknown_layer_types(checkpoint_of: CheckpointOf, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(checkpoint_of("qwen2-window"), tmp_path / "copy"))
    change_config(copy, layer_types=["chunked_attention"] * 3)
    assert "layer_types" in refusal(copy)
    change_config(copy, layer_types=["sliding_attention"] * 3, use_sliding_window=False)
    assert "sliding_window is not set" in refusal(copy)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.pt"])
def test_pickles_are_not_loaded(copy: Path, name: str) -> None:
    (copy / WEIGHTS).rename(copy / name)
    message = refusal(copy)
    assert name in message
    assert "no pickle" in message


def test_no_weights(copy: Path) -> None:
    (copy / WEIGHTS).unlink()
    assert refusal(copy).startswith(f"{copy} has neither {WEIGHTS} nor")


def test_missing_tensors(copy: Path) -> None:
    change_tensors(copy, lambda tensors: tensors.__delitem__(Q_PROJ))
    assert refusal(copy) == f"{copy} lacks tensor {Q_PROJ}"
    change_config(copy, num_hidden_layers=4)
    assert "(and 9 more)" in refusal(copy)


def test_a_shape_that_is_not_the_configs(copy: Path) -> None:
    change_tensors(copy, lambda tensors: tensors.update({Q_PROJ: torch.zeros(64, 32)}))
    message = refusal(copy)
    assert f"{copy}/{WEIGHTS}: tensor {Q_PROJ} has shape [64, 32]" in message
    assert "[64, 64]" in message


def test_a_dtype_that_is_not_a_float(copy: Path) -> None:
    zeros = torch.zeros(64, 64, dtype=torch.int8)
    change_tensors(copy, lambda tensors: tensors.update({Q_PROJ: zeros}))
    assert f"tensor {Q_PROJ} is I8" in refusal(copy)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite(copy: Path, value: float) -> None:
    change_value(copy, value)
    assert f"{copy}/{WEIGHTS}: tensor {Q_PROJ} has a NaN or an infinity" in refusal(copy)


def test_values_that_do_not_fit_the_compute_dtype(copy: Path) -> None:
    change_value(copy, 1e6)
    message = refusal(copy, "float16")
    assert f"tensor {Q_PROJ} has values that are too large for float16" in message
    load_model(copy, "float32", "cpu", select("torch", "cpu"))


def test_a_truncated_file(copy: Path) -> None:
    data = (copy / WEIGHTS).read_bytes()
    (copy / WEIGHTS).write_bytes(data[:-100])
    assert refusal(copy).startswith(f"{copy}/{WEIGHTS} is not a whole safetensors file: ")


@pytest.mark.parametrize(
    "data", [b"", b"\x01\x02", struct.pack("<Q", 1 << 60), struct.pack("<Q", 20) + b"not json" * 9]
)
def test_a_corrupt_header(copy: Path, data: bytes) -> None:
    (copy / WEIGHTS).write_bytes(data)
    assert refusal(copy).startswith(f"{copy}/{WEIGHTS} is not a whole safetensors file: ")


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    directory = make_checkpoint(tmp_path / "sharded", "llama", max_shard_size="50KB")
    assert len(list(directory.glob("model-*.safetensors"))) > 3
    return directory


def index_of(directory: Path) -> Path:
    return directory / "model.safetensors.index.json"


def test_a_missing_shard(sharded: Path) -> None:
    shard = sorted(sharded.glob("model-*.safetensors"))[1]
    shard.unlink()
    assert refusal(sharded) == f"{shard}: no such file"


def test_a_tensor_that_no_shard_holds(sharded: Path) -> None:
    weight_map = json.loads(index_of(sharded).read_text())["weight_map"]
    shard = sharded / weight_map[Q_PROJ]
    tensors = load_file(shard)
    del tensors[Q_PROJ]
    save_file(tensors, shard, metadata={"format": "pt"})
    assert refusal(sharded) == f"{sharded} lacks tensor {Q_PROJ}"


@pytest.mark.parametrize("content", ["{}", '{"weight_map": 3}', "["])
def test_a_broken_index(sharded: Path, content: str) -> None:
    index_of(sharded).write_text(content)
    assert str(index_of(sharded)) in refusal(sharded)


def test_an_index_that_points_elsewhere(sharded: Path) -> None:
    content = json.dumps({"weight_map": {"model.norm.weight": f"../{sharded.name}/x.safetensors"}})
    index_of(sharded).write_text(content)
    assert "not a file beside it" in refusal(sharded)


def test_weights_larger_than_memory(copy: Path) -> None:
    # The file is sparse: its header promises 8 TB, nothing of it is ever written or read.
    rows = 1 << 35
    change_config(copy, vocab_size=rows)
    header: dict[str, Any] = {}
    end = 0
    for name, tensor in load_file(copy / WEIGHTS).items():
        shape = [rows, 64] if tensor.shape[0] == 257 else list(tensor.shape)
        start, end = end, end + 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    encoded = json.dumps(header).encode()
    with (copy / WEIGHTS).open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        file.truncate(8 + len(encoded) + end)
    message = refusal(copy)
    assert message.startswith(f"{copy} needs 16384.0 GiB for its weights in float32, ")
    assert message.endswith("GiB are free on cpu")


def test_a_context_larger_than_memory(copy: Path) -> None:
    change_config(copy, max_position_embeddings=2**40)
    message = refusal(copy)
    assert message.startswith(f"{copy}: positions of a context of 2147483647 tokens need 320.0 GiB")
    assert message.endswith("are free: give a --max-context")
    model = load_model(copy, "float32", "cpu", select("torch", "cpu"), max_context=64)
    assert model.config.max_context == 64


def test_an_unknown_dtype_is_not_guessed(copy: Path) -> None:
    with pytest.raises(ValueError, match="int4"):
        load_model(copy, "int4", "cpu", select("torch", "cpu"))
