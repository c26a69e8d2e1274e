"""The line with which a service says that it serves: ``ready KEY=VALUE ... model=NAME``."""

from __future__ import annotations


def ready_fields(line: str) -> dict[str, str]:
    """Return what the line says; nothing where it is another line.

    A model's name may have spaces in it: it is all that follows ``model=``.
    """
    fields, _, model = line.removesuffix("\n").partition(" model=")
    word, *pairs = fields.split(" ")
    if word != "ready" or not model:
        return {}
    return {**dict(pair.split("=", 1) for pair in pairs if "=" in pair), "model": model}
