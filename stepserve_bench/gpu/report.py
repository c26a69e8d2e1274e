"""The run as a page: a table for each section, and the figures that have a target."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from stepserve_bench.gpu.setup import Row

# Shown as lines of their own, not as columns.
MESSAGES = ("fault", "error", "skipped")
# Too long for a table: they are in the JSON alone.
HIDDEN = ("where", "all", "text")


def line(row: Row) -> str:
    """One result in one line."""
    shown = {key: value for key, value in row.items() if key not in HIDDEN}
    return " ".join(f"{key}={_shown(value)}" for key, value in shown.items())


def report(content: Mapping[str, Any]) -> str:
    """The page, in Markdown."""
    versions = content["machine"]["versions"]
    named = ", ".join(f"{name} {versions[name]}" for name in ("torch", "triton"))
    card = content["sections"]["card"]["rows"][0]
    parts = [
        f"# {card['name']}, {named}, {content['machine']['date']}, {content['seconds']:.0f} s\n",
        f"Copies {card['bytes_per_s'] / 1e12:.2f} TB/s (read plus written), "
        f"multiplies {card['flops_per_s'] / 1e12:.0f} TFLOP/s: floors are made of these.\n",
    ]
    for name, section in content["sections"].items():
        if name != "card":
            parts.append(f"## {name} ({section['seconds']:.0f} s)\n\n" + _section(section["rows"]))
    return "\n".join(parts)


def summary(content: Mapping[str, Any]) -> dict[str, float]:
    """The figures that rows call such, under ``section.name``."""
    return {
        f"{name}: {key}": float(f"{value:.4g}")
        for name, section in content["sections"].items()
        for row in section["rows"]
        for key, value in row.get("figures", {}).items()
    }


def _section(rows: Sequence[Row]) -> str:
    tables = [_table(keys, group) for keys, group in _groups(rows)]
    messages = [
        f"- {key}: {row['what']}: {row[key]}" for row in rows for key in MESSAGES if key in row
    ]
    texts = [f"```\n{row['text']}\n```" for row in rows if "text" in row]
    return "\n\n".join([*tables, *texts, *filter(None, ["\n".join(messages)])]) + "\n"


def _groups(rows: Sequence[Row]) -> Iterator[tuple[tuple[str, ...], list[Row]]]:
    """Rows with the same columns, together, in the order in which they began."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        keys = tuple(key for key in row if key not in (*MESSAGES, *HIDDEN, "figures"))
        if len(keys) > 1:
            groups.setdefault(keys, []).append(row)
    yield from groups.items()


def _table(keys: Sequence[str], rows: Sequence[Row]) -> str:
    lines = [" | ".join(keys), " | ".join("---" for _ in keys)]
    lines += [" | ".join(_shown(row[key]) for key in keys) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"
    if isinstance(value, Mapping):
        return " ".join(f"{key}={_shown(item)}" for key, item in value.items())
    return str(value).replace("|", "/")
