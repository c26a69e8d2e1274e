"""What a Hugging Face checkpoint's safetensors files hold, without reading a weight.

Only safetensors are read: a pickle runs code when it is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from stepserve.modelfiles.directory import (
    INDEX_FILE,
    SINGLE_FILE,
    CheckpointError,
    find_weights,
    locate,
    read_json,
)
from stepserve.modelfiles.sources import name_of
from stepserve.protocol.errors import first_line

# What is downloaded of a hub's model.
PATTERNS = ("model*.safetensors", "*.json", "*.jinja")


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor lies: its file, its shape, and its dtype in safetensors' words ("BF16")."""

    file: Path
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint on this machine, named after the last part of its source; tensors by name."""

    name: str
    directory: Path
    tensors: Mapping[str, TensorInfo]


def find(source: str | Path) -> Checkpoint:
    """Locate ``source``, a directory or a Hugging Face hub id, and read its files' headers.

    Raises:
        CheckpointError: there is no such checkpoint, or its files are not whole.
    """
    directory = locate(source, PATTERNS)
    return Checkpoint(name_of(source), directory, _tensors(directory))


@contextmanager
def opened(file: Path, framework: str = "pt") -> Iterator[Any]:
    """``safe_open(file)``, with its errors as CheckpointErrors."""
    try:
        with safe_open(file, framework=framework) as tensors:
            yield tensors
    except FileNotFoundError:
        raise CheckpointError(f"{file}: no such file") from None
    except (SafetensorError, OSError, RuntimeError) as error:
        raise CheckpointError(
            f"{file} is not a whole safetensors file: {first_line(error)}"
        ) from error


def _tensors(directory: Path) -> dict[str, TensorInfo]:
    weights = find_weights(directory)
    return _header(weights) if weights.name == SINGLE_FILE else _sharded(directory)


def _sharded(directory: Path) -> dict[str, TensorInfo]:
    """All tensors of all shards that the index names.

    Which shard holds which tensor is the shards' own word, as in transformers: indices name
    tied tensors that nobody wrote, and are left as they were when tensors are moved.
    """
    index = directory / INDEX_FILE
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise CheckpointError(f"{index} has no weight_map")
    tensors: dict[str, TensorInfo] = {}
    for shard in sorted({str(shard) for shard in weight_map.values()}):
        if Path(shard).name != shard:
            raise CheckpointError(f"{index} names {shard!r}, which is not a file beside it")
        tensors |= _header(directory / shard)
    return tensors


def _header(file: Path) -> dict[str, TensorInfo]:
    tensors = {}
    # For torch the whole file would be mapped writable: refused where it is larger than memory.
    with opened(file, "numpy") as handle:
        names = handle.keys()
        for name in names:
            view = handle.get_slice(name)
            tensors[name] = TensorInfo(file, tuple(view.get_shape()), str(view.get_dtype()))
    return tensors
