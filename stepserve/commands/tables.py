"""Rows on standard output: as a table where that fits, else one below the other; nothing is cut."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Sequence

from rich.cells import cell_len

GAP = "  "


def print_rows(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows of texts, the first of each naming it.

    A program gets a table, however wide. In a terminal that is too narrow for it each row is its
    name on a line, and below it what else is known, with the columns' names.
    """
    told = [[_printable(text) for text in row] for row in rows]
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for line in lines(columns, told, width):
        print(line, flush=True)


def lines(
    columns: Sequence[str], rows: Sequence[Sequence[str]], width: int | None
) -> Iterable[str]:
    """Return the lines for ``width`` characters; None for as many as it takes."""
    widths = [max(map(cell_len, cells)) for cells in zip(columns, *rows, strict=True)]
    if width is None or sum(widths) + len(GAP) * (len(widths) - 1) <= width:
        for row in (columns, *rows):
            sized = zip(row, widths, strict=True)
            padded = (text + " " * (size - cell_len(text)) for text, size in sized)
            yield GAP.join(padded).rstrip()
        return
    for name, *texts in rows:
        yield name
        pairs = zip(columns[1:], texts, strict=True)
        yield from _wrapped([f"{column}: {text}" for column, text in pairs if text], width)


def _wrapped(pairs: Iterable[str], width: int) -> Iterable[str]:
    """Put as many onto a line as there is room for; one that is longer has a line for itself."""
    line = ""
    for pair in pairs:
        longer = f"{line}{GAP}{pair}"
        if line and cell_len(longer) > width:
            yield line
            longer = f"{GAP}{pair}"
        line = longer
    if line:
        yield line


def _printable(text: str) -> str:
    """What others wrote moves no cursor and begins no line."""
    return "".join(char if char.isprintable() else " " for char in text)
