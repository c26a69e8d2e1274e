"""Where a command's figures go: a file, and the last line that it prints."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def finish(result: Mapping[str, Any], out: str) -> None:
    """Write the figures where ``--out`` names a file, and print them as one line."""
    write(result, out)
    print(json.dumps(result))


def write(result: Mapping[str, Any], out: str) -> None:
    """Write the figures as JSON into the file ``out``; nothing where that is empty."""
    if out:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        Path(out).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
