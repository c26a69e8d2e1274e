"""``stepserve replay``: a recorded core's events through a core; its effects must be the same."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, CliPositionalArg, SettingsConfigDict

from scheduler_svc.core.config import CoreConfig
from scheduler_svc.core.events import Effect
from scheduler_svc.core.scheduler import Core
from scheduler_svc.trace.encode import BadTrace, canonical, codec
from scheduler_svc.trace.file import TraceReader, open_trace
from stepserve.process.command_line import parse_settings

PROG = "stepserve replay"
EFFECT = codec(Effect)
# A line may hold a prompt's length of numbers: so much is shown around where two differ.
SHOWN_BEFORE, SHOWN_AFTER = 100, 200


@dataclass(frozen=True, slots=True)
class Difference:
    """The first turn, counted from 1, whose effects are others; both sides' JSON lines."""

    turn: int
    recorded: Sequence[str]
    replayed: Sequence[str]

    def __str__(self) -> str:
        pairs = zip_longest(self.recorded, self.replayed, fillvalue="nothing")
        lines = [f"turn {self.turn} differs:"]
        for recorded, replayed in pairs:
            if recorded != replayed:
                start = max(0, _first_difference(recorded, replayed) - SHOWN_BEFORE)
                lines.append(f"  recorded  {_excerpt(recorded, start)}")
                lines.append(f"  replayed  {_excerpt(replayed, start)}")
        return "\n".join(lines)


@dataclass(slots=True)
class Replay:
    """How much was replayed, the differing turn included, and what differs, if anything."""

    num_turns: int = 0
    num_events: int = 0
    num_effects: int = 0
    difference: Difference | None = None


def replay(trace: TraceReader, make_core: Callable[[CoreConfig], Core] = Core) -> Replay:
    """Tell a new core what the recorded one was told, until it wants something else.

    Raises BadTrace.
    """
    core = make_core(trace.config)
    done = Replay()
    for events, effects in trace.turns():
        done.num_turns += 1
        done.num_events += len(events)
        done.num_effects += len(effects)
        recorded = [canonical(EFFECT.pack(effect)) for effect in effects]
        try:
            replayed = [canonical(EFFECT.pack(effect)) for effect in core.handle(events)]
        except Exception as error:
            replayed = [f"raised {type(error).__name__}: {error}"]
        if recorded != replayed:
            done.difference = Difference(done.num_turns, recorded, replayed)
            break
    return done


def _first_difference(left: str, right: str) -> int:
    pairs = enumerate(zip(left, right, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(left), len(right)))


def _excerpt(line: str, start: int) -> str:
    end = start + SHOWN_BEFORE + SHOWN_AFTER
    return ("…" if start else "") + line[start:end] + ("…" if end < len(line) else "")


class ReplayCommand(BaseSettings):
    """Replay recorded cores (--record-events-dir) and compare what they wanted, byte for byte."""

    model_config = SettingsConfigDict(
        env_prefix="STEPSERVE_", env_ignore_empty=True, extra="ignore"
    )

    files: CliPositionalArg[list[str]] = Field(description="traces: .events.jsonl, or .gz of it")

    def run(self) -> int:
        """Print a line for each file; return 1 where one differs, or is no trace."""
        return max((_replay_file(Path(name)) for name in self.files), default=0)


def _replay_file(path: Path) -> int:
    try:
        with open_trace(path) as trace:
            done = replay(trace)
    except (BadTrace, OSError) as error:
        print(f"{path}: {error}")
        return 1
    counts = f"{done.num_turns} turns, {done.num_events} events, {done.num_effects} effects"
    print(f"{path}: {counts}: {done.difference or 'identical'}")
    return 1 if done.difference else 0


if __name__ == "__main__":
    sys.exit(parse_settings(ReplayCommand, PROG, sys.argv[1:]).run())
