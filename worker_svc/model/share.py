"""What one process loads of a model, and how it learns of what the others load."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from worker_svc.model.part import Part

WHOLE = Part()
# SHA-256 of tensors' bytes, by their names.
Digests = dict[str, str]


@dataclass(frozen=True, slots=True)
class Share:
    """One process's share in loading; by default it loads all.

    ``check`` is told, before anything is read, what all processes must agree on. ``digests`` is
    told what this one has read, and returns what all of them have.
    """

    part: Part = WHOLE
    check: Callable[[str], object] = str
    digests: Callable[[Digests], Digests] = dict
