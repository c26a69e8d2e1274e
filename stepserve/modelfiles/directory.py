"""Where a model's files are, and its JSON files' contents. Imports no torch."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import huggingface_hub

from stepserve.protocol.errors import StepserveError, first_line

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
    if path.exists():
        raise CheckpointError(f"{path} is a file: a checkpoint is a directory or a hub id")
    if not HUB_ID.fullmatch(str(source)):
        raise CheckpointError(f"{path}: no such directory")
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
