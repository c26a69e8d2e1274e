"""Python's collector in a process that serves."""

from __future__ import annotations

import gc

# Objects more than before, young collections, middle ones: until each kind of collection.
THRESHOLDS = (50_000, 10, 10)


def calm_collector() -> None:
    """Let the collector leave alone what is there now, and come less often.

    To be called when a service is up. What was imported lives as long as the process, and it
    takes 0.1 to 0.4 s to walk through: no step and no stream may wait for that. A step of
    256 rows makes a thousand objects that go by themselves: they called the collector twice.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
