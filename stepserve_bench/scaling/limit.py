"""What keeps a service from the ideal line: a pure reading of where the CPU time went."""

from __future__ import annotations

from collections.abc import Mapping

NEAR_IDEAL = 0.9
# Of one core: a process with one busy thread has no more to give.
FULL = 0.85
# Of all cores together.
MACHINE_FULL = 0.9


def first_limit(share: float, cores: Mapping[str, float], others: float, num_cores: int) -> str:
    """Return what limits first, in words; "" where ``share`` of the ideal is near enough.

    ``cores``: how many cores each process of the service kept busy; ``others``: all else on the
    machine, clients among it.
    """
    if share >= NEAR_IDEAL:
        return ""
    busiest = max(cores, key=lambda name: cores[name])
    if cores[busiest] >= FULL:
        return f"{busiest} fills a core"
    if sum(cores.values()) + others >= MACHINE_FULL * num_cores:
        told = f"of the service {busiest} has the most, {cores[busiest]:.2f}"
        return f"the machine's {num_cores} cores; {told}"
    return "waiting: nobody fills a core"
