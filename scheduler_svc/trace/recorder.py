"""Records a lane's core: what it was told and what it wanted, turn by turn, without any text."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from scheduler_svc.core.config import CoreConfig
from scheduler_svc.core.events import Effect, Event
from scheduler_svc.record_files import events_path
from scheduler_svc.trace.file import header_line, turn_line
from scheduler_svc.trace.redact import Redactor

log = logging.getLogger(__name__)

MAX_TRACE_BYTES = 1 << 30


class TraceRecorder:
    """Writes one core's trace into ``file``, up to ``max_bytes``, 0 being no limit.

    It must see every turn from the core's first on, one that raised as well. Each is written
    before the next one, so that what led to a crash is there. At the limit, or where the file
    cannot be written, it stops and says so: the lane goes on. ``key`` is drawn where none is
    given, and kept nowhere.
    """

    def __init__(
        self,
        file: TextIO,
        config: CoreConfig,
        max_bytes: int = MAX_TRACE_BYTES,
        key: bytes | None = None,
    ) -> None:
        self._file = file
        self._num_bytes_left = max_bytes or None
        self._redactor = Redactor(config.incarnation, key or secrets.token_bytes(32))
        self._num_turns = 0
        self._has_stopped = False
        self._write(header_line(config))

    def observe(
        self, events: Sequence[Event], effects: Sequence[Effect], _: object = None, /
    ) -> None:
        """Take note of one turn: ``effects`` are what ``Core.handle(events)`` returned.

        None where it raised: a replay then shows what.
        """
        if not self._has_stopped:
            self._write(turn_line(self._redactor.turn(events, effects)))
            self._num_turns += 1

    def _write(self, line: str) -> None:
        # JSON with all else escaped: a character is a byte.
        if self._num_bytes_left is not None:
            self._num_bytes_left -= len(line)
            if self._num_bytes_left < 0:
                self._stop("it is as large as it may be")
                return
        try:
            self._file.write(line)
            self._file.flush()
        except OSError as error:
            self._stop(str(error))

    def _stop(self, reason: str) -> None:
        self._has_stopped = True
        log.warning("the trace ends after %d turns: %s", self._num_turns, reason)


@contextmanager
def trace_recorder(
    directory: str, name: str, config: CoreConfig, max_bytes: int = MAX_TRACE_BYTES
) -> Iterator[TraceRecorder | None]:
    """Record into ``NAME.events.jsonl`` of ``directory``; nothing where that is empty."""
    if not directory:
        yield None
        return
    Path(directory).mkdir(parents=True, exist_ok=True)
    file = events_path(Path(directory), name).open("w", encoding="ascii")
    try:
        yield TraceRecorder(file, config, max_bytes)
    finally:
        # What cannot be written is tried once more here; the recorder has said so.
        with suppress(OSError):
            file.close()
