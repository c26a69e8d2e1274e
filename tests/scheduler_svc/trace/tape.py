"""Cores of model worlds that are recorded as a lane would, in memory."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

from scheduler_svc.core.config import CoreConfig
from scheduler_svc.core.events import Effect, Event
from scheduler_svc.core.scheduler import Core
from scheduler_svc.trace.file import TraceReader
from scheduler_svc.trace.recorder import TraceRecorder
from scheduler_svc.trace.replay import Replay, replay

KEY = bytes(range(32))


class Tape:
    """One core's trace, and what it was really told."""

    def __init__(self, config: CoreConfig, key: bytes | None = None) -> None:
        self._file = io.StringIO()
        self._recorder = TraceRecorder(self._file, config, key=key)
        self.events: list[Event] = []
        self.effects: list[Effect] = []

    def observe(self, events: Sequence[Event], effects: Sequence[Effect]) -> None:
        self._recorder.observe(events, effects)
        self.events += events
        self.effects += effects

    @property
    def text(self) -> str:
        return self._file.getvalue()

    def reader(self) -> TraceReader:
        return TraceReader(io.StringIO(self.text))

    def replay(self, make_core: Callable[[CoreConfig], Core] = Core) -> Replay:
        return replay(self.reader(), make_core)


class TapedCore(Core):
    """A core that is recorded on the last of ``tapes``: its own."""

    def __init__(self, config: CoreConfig, tapes: list[Tape], key: bytes | None = None) -> None:
        super().__init__(config)
        self._tape = Tape(config, key)
        tapes.append(self._tape)

    def handle(self, events: Sequence[Event]) -> list[Effect]:
        effects = super().handle(events)
        self._tape.observe(events, effects)
        return effects
