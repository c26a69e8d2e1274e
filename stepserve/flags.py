"""Settings as the flags that give them."""

from __future__ import annotations


def flag(name: str, value: object) -> str:
    """Return ``--name=value``; a truth is ``--name`` or ``--no-name``."""
    kebab = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{kebab}" if value else f"--no-{kebab}"
    return f"--{kebab}={value}"
