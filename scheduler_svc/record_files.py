"""Where recordings lie: a file of each kind for each time that a worker was held."""

from __future__ import annotations

from pathlib import Path

STEPS_SUFFIX, EVENTS_SUFFIX = ".jsonl", ".events.jsonl"


def record_name(worker_id: str, epoch: int) -> str:
    """Return what the files of one hold are called, without their suffixes."""
    return f"{worker_id.replace(':', '_')}-{epoch}"


def steps_path(directory: Path, name: str) -> Path:
    """Return the file of ``--record-dir`` that says what each step did."""
    return directory / f"{name}{STEPS_SUFFIX}"


def events_path(directory: Path, name: str) -> Path:
    """Return the file of ``--record-events-dir`` that says what a core was told and wanted."""
    return directory / f"{name}{EVENTS_SUFFIX}"


def steps_paths(directory: Path) -> list[Path]:
    """Return all records of steps in a directory, sorted; others may lie beside them."""
    paths = sorted(directory.glob(f"*{STEPS_SUFFIX}"))
    return [path for path in paths if not path.name.endswith(EVENTS_SUFFIX)]
