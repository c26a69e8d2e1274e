"""The sections of a run: where each is, what it shows, and how long it may take."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import cast

from stepserve_bench.gpu.setup import Section


@dataclass(frozen=True, slots=True)
class Part:
    """A section: its function as ``MODULE:NAME``, what it shows, the seconds it may take."""

    where: str
    purpose: str
    limit_s: float

    def load(self) -> Section:
        """Import what it needs: before the first section is forked, so that none waits for it."""
        module, _, name = self.where.partition(":")
        return cast(
            Section, getattr(importlib.import_module(f"stepserve_bench.gpu.{module}"), name)
        )


CARD = Part("card:card", "what the card is and reaches", 60.0)

SECTIONS: dict[str, Part] = {
    "kernels": Part("checks:kernels", "every kernel against its reference", 100.0),
    "sweep": Part("sweep:sweep", "tiles of the attention kernels", 150.0),
    "attention": Part("attention:attention", "attention beside its floors", 60.0),
    "products": Part("products:products", "matrix products of few rows", 60.0),
    "sampling": Part("sampling:sampling", "choosing tokens", 60.0),
    "steps": Part("steps:steps", "steps beside their floors, eager and graphed", 120.0),
    "nano": Part("service:nano", "0.6B: 256 requests of U(100, 1024) in and out", 120.0),
    "8b": Part("service:eight_billion", "8B: 256 x 1024 in, 1024 out", 150.0),
    "ranks": Part("ranks:two_ranks", "8B on two GPUs: as two stages, as two ranks", 300.0),
    "stream": Part("service:stream", "one stream alone (nano and 8b have it too)", 90.0),
    "oracle": Part("oracle:oracle", "the service against one job alone, in float32", 90.0),
}
# What nano and 8b measure anyway is not measured again unless it is asked for.
DEFAULT = tuple(name for name in SECTIONS if name != "stream")
