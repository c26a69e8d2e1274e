"""Finding a Hugging Face checkpoint and what its safetensors files hold, without reading a weight.

Only safetensors are read: a pickle runs code when it is loaded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError, safe_open

from protos.errors import StepserveError

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")
HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


class CheckpointError(StepserveError):
    """This checkpoint can't be served; one line says which file or tensor, and why."""


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

    A hub id is downloaded unless it is cached; HF_HOME and HF_HUB_OFFLINE are honoured.

    Raises:
        CheckpointError: there is no such checkpoint, or its files are not whole.
    """
    directory = locate(source)
    return Checkpoint(Path(source).expanduser().resolve().name, directory, _tensors(directory))


def locate(source: str | Path) -> Path:
    """The local directory of ``source``, downloaded from the hub if it has to be.

    Raises:
        CheckpointError: neither a directory nor something the hub has.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise CheckpointError(f"{path} is a file: a checkpoint is a directory or a hub id")
    if not HUB_ID.fullmatch(str(source)):
        raise CheckpointError(f"{path}: no such directory")
    try:
        return Path(
            huggingface_hub.snapshot_download(
                str(source),
                allow_patterns=["model*.safetensors", "*.json", "*.jinja"],
                ignore_patterns=["*/*"],
            )
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        problem = f"{source}: no such directory, and not available from the hub"
        raise CheckpointError(f"{problem}: {first_line(error)}") from error


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``.

    Raises:
        CheckpointError: there is no such file, or it holds no JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} can't be read: {first_line(error)}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} is not a JSON object")
    return value


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


def first_line(error: Exception) -> str:
    """The first line of an error's text, for messages that are one line."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _tensors(directory: Path) -> dict[str, TensorInfo]:
    if (directory / SINGLE_FILE).exists():
        return _header(directory / SINGLE_FILE)
    if (directory / INDEX_FILE).exists():
        return _sharded(directory)
    pickles = sorted(file.name for file in directory.iterdir() if file.suffix in PICKLE_SUFFIXES)
    if pickles:
        raise CheckpointError(
            f"{directory} has its weights in {pickles[0]}: no pickle is loaded, "
            f"convert it to {SINGLE_FILE}"
        )
    raise CheckpointError(f"{directory} has neither {SINGLE_FILE} nor {INDEX_FILE}")


def _sharded(directory: Path) -> dict[str, TensorInfo]:
    index = directory / INDEX_FILE
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise CheckpointError(f"{index} has no weight_map")
    headers: dict[str, dict[str, TensorInfo]] = {}
    for shard in sorted({str(shard) for shard in weight_map.values()}):
        if Path(shard).name != shard:
            raise CheckpointError(f"{index} names {shard!r}, which is not a file beside it")
        headers[shard] = _header(directory / shard)
    tensors = {}
    for name, shard in weight_map.items():
        if name not in headers[shard]:
            raise CheckpointError(
                f"{directory / shard} lacks tensor {name}, which {index} puts there"
            )
        tensors[name] = headers[shard][name]
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
