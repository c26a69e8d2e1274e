"""queue.lua, split into its scripts."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources


@dataclass(frozen=True, slots=True)
class Script:
    """One script: ``sha`` names ``source`` to EVALSHA."""

    name: str
    source: str
    sha: str


def load_scripts() -> Mapping[str, Script]:
    """Every section of queue.lua by name, each with the section "common" in front."""
    text = resources.files(__package__).joinpath("queue.lua").read_text(encoding="utf-8")
    _, *parts = re.split(r"^--@ (\w+)\n", text, flags=re.MULTILINE)
    sections = dict(zip(parts[::2], parts[1::2], strict=True))
    common = sections.pop("common")
    return {name: _script(name, common + body) for name, body in sections.items()}


def _script(name: str, source: str) -> Script:
    return Script(name, source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())
