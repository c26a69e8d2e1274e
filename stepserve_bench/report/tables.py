"""Where tables are printed."""

from __future__ import annotations

import sys

from rich.console import Console

FILE_WIDTH = 160


def table_console() -> Console:
    """Standard output: as wide as its terminal, and wide enough for any table where it is none."""
    return Console(width=None if sys.stdout.isatty() else FILE_WIDTH, highlight=False)
