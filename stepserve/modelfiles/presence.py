"""What can be told of a checkpoint at once, before minutes go by in loading it."""

from __future__ import annotations

from pathlib import Path

from stepserve.modelfiles.directory import (
    CheckpointError,
    check_hub_id,
    find_weights,
    read_json,
)
from stepserve.modelfiles.facts import read_facts
from stepserve.modelfiles.families import check_supported


def check_source(source: str) -> None:
    """Raise CheckpointError where nothing can be served from a directory or hub id.

    What a hub has is not asked, and no weights are read.
    """
    directory = Path(source).expanduser()
    config = directory / "config.json"
    try:
        if not directory.is_dir():
            check_hub_id(source)
            return
        if not config.exists():
            raise CheckpointError(f"{directory} is no checkpoint: it has no config.json")
        check_supported(config, read_json(config))
        read_facts(directory)
        find_weights(directory)
    except OSError as error:
        raise CheckpointError(f"{directory} can't be read: {error.strerror}") from None
