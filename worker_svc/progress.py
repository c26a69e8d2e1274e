"""How far the weights are: a bar where someone watches, a line every tenth elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

# Less than this is there before a line is read.
MIN_REPORTED_BYTES = 64 << 20


@contextmanager
def progress(name: str, total_bytes: int) -> Iterator[Callable[[int], None]]:
    """Yields a function to be called with each number of bytes that ``name`` has got further."""
    if not sys.stderr.isatty():
        yield _Tenths(name, total_bytes).advance
        return
    columns = (TextColumn("loading {task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, TransferSpeedColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=total_bytes)
        yield lambda num_bytes: bar.advance(task, num_bytes)


class _Tenths:
    def __init__(self, name: str, total_bytes: int) -> None:
        self._name = name
        self._total_bytes = total_bytes
        self._num_bytes = 0

    def advance(self, num_bytes: int) -> None:
        before = self._tenths()
        self._num_bytes += num_bytes
        if self._tenths() > before and self._total_bytes >= MIN_REPORTED_BYTES:
            print(f"loading {self._name}: {self._tenths()}0 %", file=sys.stderr, flush=True)

    def _tenths(self) -> int:
        return 10 * self._num_bytes // max(1, self._total_bytes)
