"""The run's one JSON file: written anew with each result, so that an early end loses nothing."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from stepserve_bench.gpu.setup import Row


class Results:
    """What was measured so far, by section, and the file that holds it."""

    def __init__(self, path: Path, about: dict[str, Any]) -> None:
        self._path = path
        self._start_s = time.monotonic()
        path.parent.mkdir(parents=True, exist_ok=True)
        self.content: dict[str, Any] = {**about, "seconds": 0.0, "sections": {}}
        self._write()

    @property
    def sections(self) -> dict[str, dict[str, Any]]:
        """By section: ``seconds``, and its ``rows`` in order."""
        found: dict[str, dict[str, Any]] = self.content["sections"]
        return found

    def rows(self, section: str) -> list[Row]:
        """A section's results so far."""
        rows: list[Row] = self.sections.get(section, {}).get("rows", [])
        return rows

    def begin(self, section: str) -> None:
        """The section starts now."""
        start_s = round(time.monotonic() - self._start_s, 1)
        self.sections[section] = {"start_s": start_s, "seconds": 0.0, "rows": []}

    def add(self, section: str, row: Row) -> None:
        """Take one result and write the file."""
        now_s = time.monotonic() - self._start_s
        entry = self.sections[section]
        entry["rows"].append(row)
        entry["seconds"] = round(now_s - entry["start_s"], 1)
        self._write()

    @property
    def problems(self) -> list[str]:
        """A line for each fault and error."""
        return [
            f"{name}: {row['what']}: {key}: {row[key]}"
            for name, section in self.sections.items()
            for row in section["rows"]
            for key in ("fault", "error")
            if key in row
        ]

    def _write(self) -> None:
        self.content["seconds"] = round(time.monotonic() - self._start_s, 1)
        beside = self._path.with_name(f".{self._path.name}.new")
        beside.write_text(json.dumps(self.content, indent=1, default=str) + "\n", encoding="utf-8")
        os.replace(beside, self._path)
