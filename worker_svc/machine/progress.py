"""How far a worker is with its start: a bar where someone watches, a line elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TransferSpeedColumn,
)

Item = TypeVar("Item")

# Less than this is there before a line is read.
MIN_REPORTED_BYTES = 64 << 20


@contextmanager
def progress(
    name: str, total_bytes: int, *, is_alone: bool = True
) -> Iterator[Callable[[int], None]]:
    """Yields a function to be called with each number of bytes that ``name`` has got further.

    Lines it is where several processes, none of them ``is_alone``, write to one terminal.
    """
    if not (sys.stderr.isatty() and is_alone):
        yield _Tenths(name, total_bytes).advance
        return
    columns = (TextColumn("loading {task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, TransferSpeedColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=total_bytes)
        yield lambda num_bytes: bar.advance(task, num_bytes)


def counted(
    items: Iterable[Item], what: str, total: int, *, is_alone: bool = True
) -> Iterator[Item]:
    """The items, each shown as it comes; where nobody watches one line says that they came."""
    if not (sys.stderr.isatty() and is_alone):
        yield from items
        print(f"{what}: {total}", file=sys.stderr, flush=True)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        yield from bar.track(items, total=total, description=what)


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
