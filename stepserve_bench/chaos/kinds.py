"""The kinds of faults: what each strikes, and for how long it lasts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Part = Literal["worker", "scheduler", "both", "link", "client", "redis", "pair", "job", "all"]


@dataclass(frozen=True, slots=True)
class Kind:
    """What is struck, and between how many and how many seconds it lasts.

    ``part``: a worker, a scheduler, a worker and who drives it, the connections to a worker,
    those of clients to a scheduler, Redis, it and its replica, what is computed, or everything in
    turn. What was killed or told to end is started again at once, but for Redis, which is away for
    as long as the fault lasts. ``needs_oracle``: done by oracle workers only.
    ``aim_s``: how long 99 of 100 streams may stand still at most, beside what it takes to compute
    their prompts again where a worker is lost.
    """

    name: str
    part: Part
    about: str
    lasts_s: tuple[float, float] = (0.0, 0.0)
    aim_s: float | None = None
    needs_oracle: bool = False


_KINDS = (
    Kind("worker-kill", "worker", "SIGKILL", aim_s=1.0),
    Kind("worker-stop", "worker", "SIGSTOP, then SIGCONT", (1.0, 6.0)),
    Kind("thread-stop", "worker", "its computing thread stands still, then goes on", (1.0, 6.0)),
    Kind("worker-end", "worker", "SIGTERM", aim_s=0.5),
    Kind("scheduler-kill", "scheduler", "SIGKILL", aim_s=2.5),
    Kind("scheduler-stop", "scheduler", "SIGSTOP, then SIGCONT", (1.0, 6.0)),
    Kind("scheduler-end", "scheduler", "SIGTERM", aim_s=0.3),
    Kind("both-kill", "both", "SIGKILL of a worker and of who drives it", aim_s=4.0),
    Kind("link-cut", "link", "every connection to a worker is closed"),
    Kind("link-delay", "link", "what goes to a worker and back comes later", (1.0, 4.0)),
    Kind("link-hole", "link", "nothing comes through to a worker or back", (1.0, 6.0)),
    Kind("client-cut", "client", "every client's connection to a scheduler is closed"),
    Kind("client-delay", "client", "what goes to a scheduler's clients comes later", (1.0, 4.0)),
    Kind("client-hole", "client", "nothing comes through to a scheduler's clients", (1.0, 4.0)),
    Kind("redis-kill", "redis", "SIGKILL, away for a second", (1.0, 1.0), aim_s=1.3),
    Kind("redis-end", "redis", "SIGTERM, started again at once"),
    Kind("redis-stop", "redis", "SIGSTOP, then SIGCONT", (0.5, 4.0)),
    Kind("redis-torn", "redis", "SIGKILL in the midst of a write to its file", (0.1, 1.0)),
    Kind("redis-failover", "pair", "SIGKILL, its replica serves, the last writes lost", (0.3, 1.5)),
    Kind("poison", "job", "a job that crashes whichever worker runs it", needs_oracle=True),
    Kind("rolling-restart", "all", "SIGTERM to schedulers, workers and Redis, one after another"),
)  # fmt: skip
KINDS: Mapping[str, Kind] = {kind.name: kind for kind in _KINDS}
# All but the one that strikes everything: by hand it is asked for alone.
USUAL = tuple(kind.name for kind in _KINDS if kind.part != "all")
