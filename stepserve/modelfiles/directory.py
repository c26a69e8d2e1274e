"""Where a model's files are, and its JSON files' contents. Imports no torch."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import huggingface_hub

from stepserve.protocol.errors import StepserveError, first_line

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


class CheckpointError(StepserveError):
    """This checkpoint can't be served; one line says which file or tensor, and why."""


def locate(source: str | Path, patterns: Sequence[str]) -> Path:
    """The local directory of ``source``, a directory or a Hugging Face hub id (OWNER/NAME).

    Of a hub's model the files that ``patterns`` match are downloaded unless they are cached;
    HF_HOME and HF_HUB_OFFLINE are honoured.

    Raises:
        CheckpointError: neither a directory nor something the hub has.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    check_hub_id(source)
    try:
        return Path(
            huggingface_hub.snapshot_download(
                str(source), allow_patterns=list(patterns), ignore_patterns=["*/*"]
            )
        )
    except Exception as error:
        # The hub's client raises a dozen kinds, of four libraries; one line is enough.
        problem = f"{source}: no such directory, and not available from the hub"
        raise CheckpointError(f"{problem}: {first_line(error)}") from error


def check_hub_id(source: str | Path) -> None:
    """Raise CheckpointError where this is no directory, and the hub can't have it either."""
    path = Path(source).expanduser()
    if path.exists():
        raise CheckpointError(f"{path} is a file: a checkpoint is a directory or a hub id")
    if not HUB_ID.fullmatch(str(source)):
        hint = "" if path.is_absolute() else f" in {Path.cwd()}; a hub id is OWNER/NAME"
        raise CheckpointError(f"{path}: no such directory{hint}")


def find_weights(directory: Path) -> Path:
    """The file of a checkpoint's weights, or the index of several. Raises CheckpointError."""
    for name in (SINGLE_FILE, INDEX_FILE):
        if (directory / name).exists():
            return directory / name
    pickles = sorted(file.name for file in directory.iterdir() if file.suffix in PICKLE_SUFFIXES)
    if pickles:
        raise CheckpointError(
            f"{directory} has its weights in {pickles[0]}: no pickle is loaded, "
            f"convert it to {SINGLE_FILE}"
        )
    raise CheckpointError(f"{directory} has neither {SINGLE_FILE} nor {INDEX_FILE}")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``.

    Raises:
        CheckpointError: there is no such file, or it holds no JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: {first_line(error)}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} is not a JSON object")
    return value
