"""Latency against load: one system beside another, at shares of the first one's capacity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stepserve_bench.simulator.inputs import Demand
from stepserve_bench.simulator.runs import Runner
from stepserve_bench.simulator.system import System


@dataclass(frozen=True, slots=True)
class Curve:
    """One system's figures, one for each rate (jobs a second)."""

    name: str
    rates: tuple[float, ...]
    figures: tuple[dict[str, float], ...]

    def as_json(self) -> dict[str, Any]:
        return {"system": self.name, "rates": self.rates, "figures": self.figures}


def load_curves(
    runner: Runner, systems: Sequence[System], demand: Demand, loads: Sequence[float]
) -> list[Curve]:
    """Run each system at each load."""
    capacity = runner.capacity(systems[0], demand)
    runner.console.print(f"{systems[0].name}: {capacity:.2f} jobs/s at most", highlight=False)
    rates = tuple(load * capacity for load in loads)
    curves = []
    for system in systems:
        runner.console.print(f"{system.name} …", highlight=False)
        figures = tuple(runner.run(system, demand.streams(rate)).figures() for rate in rates)
        curves.append(Curve(system.name, rates, figures))
    return curves
