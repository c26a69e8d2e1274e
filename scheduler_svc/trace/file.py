"""The file of a trace: JSON lines, a header and then one line for each turn of a core.

Whoever records may be killed at any moment: a last line without its end is not there.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, cast

from scheduler_svc.core.config import CoreConfig
from scheduler_svc.core.events import Effect, Event
from scheduler_svc.trace.encode import BadTrace, canonical, codec
from scheduler_svc.trace.redact import Turn

FORMAT = "stepserve-trace"
VERSION = 1


@dataclass(frozen=True, slots=True)
class Header:
    """The first line: what the core was made of, and how the lines are written."""

    config: CoreConfig
    format: str
    version: int


HEADER = codec(Header)
TURN = codec(tuple[tuple[Event, ...], tuple[Effect, ...]])


def header_line(config: CoreConfig) -> str:
    return canonical(HEADER.pack(Header(config, FORMAT, VERSION))) + "\n"


def turn_line(turn: Turn) -> str:
    return canonical(TURN.pack(turn)) + "\n"


class TraceReader:
    """Reads the header at once, and the turns one by one. Raises BadTrace, at any of them."""

    def __init__(self, file: TextIO) -> None:
        self._lines = _whole_lines(file)
        line = _parsed(next(self._lines, "null"))
        if not isinstance(line, dict) or line.get("format") != FORMAT:
            raise BadTrace("it does not begin with the header of a trace")
        if line.get("version") != VERSION:
            raise BadTrace(f"its version is {line.get('version')!r:.20}, not {VERSION}")
        self.config = cast(Header, HEADER.unpack(line)).config

    def turns(self) -> Iterator[Turn]:
        """Yield what is left of them."""
        for number, line in enumerate(self._lines, start=1):
            try:
                turn: Turn = TURN.unpack(_parsed(line))
            except BadTrace as error:
                raise BadTrace(f"turn {number}: {error}") from None
            yield turn


@contextmanager
def open_trace(path: Path) -> Iterator[TraceReader]:
    """Open a trace, compressed or not. Raises BadTrace, OSError."""
    opener: Any = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        yield TraceReader(file)


def _whole_lines(file: TextIO) -> Iterator[str]:
    try:
        for line in file:
            if line.endswith("\n"):
                yield line
    except (EOFError, UnicodeDecodeError, gzip.BadGzipFile) as error:
        raise BadTrace(str(error)) from None


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        raise BadTrace("a line is not JSON") from None
