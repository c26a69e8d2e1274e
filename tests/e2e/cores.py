"""What the recorded cores of a service came to, told again all that they were told."""

from __future__ import annotations

from pathlib import Path

from scheduler_svc.core.config import CoreConfig
from scheduler_svc.core.scheduler import Core
from scheduler_svc.trace.file import open_trace
from scheduler_svc.trace.replay import replay


def replayed_cores(directory: Path) -> list[tuple[CoreConfig, Core]]:
    """Every core that recorded its events there, the oldest first, as it was at its end."""
    found: list[tuple[CoreConfig, Core]] = []

    def make_core(config: CoreConfig) -> Core:
        core = Core(config)
        found.append((config, core))
        return core

    for path in sorted(directory.iterdir(), key=lambda path: path.stat().st_mtime_ns):
        with open_trace(path) as trace:
            done = replay(trace, make_core)
        assert done.difference is None, str(done.difference)
        found[-1][1].check()
    return found


def assert_all_blocks_are_free(cores: list[tuple[CoreConfig, Core]]) -> None:
    """Of the last core: those of workers that are gone went with them."""
    config, core = cores[-1]
    assert core.num_free_blocks == config.num_blocks
