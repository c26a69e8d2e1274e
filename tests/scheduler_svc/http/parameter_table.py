"""The table of parameters in docs/http.md. ``python -m tests.scheduler_svc.http.parameter_table``
writes it anew."""

from __future__ import annotations

from pathlib import Path

from scheduler_svc.http.parameters import CHAT, COMPLETION, RESPONSE

DOCUMENT = Path(__file__).resolve().parents[3] / "docs/http.md"
BEGIN, END = "<!-- parameters -->\n", "<!-- /parameters -->\n"
_TABLES = {"completions": COMPLETION, "chat": CHAT, "responses": RESPONSE}


def table() -> str:
    """Return the table: what is done with each field, of each route that knows it."""
    names = sorted({name for each in _TABLES.values() for name in each})
    lines = [f"| field | {' | '.join(_TABLES)} | |", "| --- " * (len(_TABLES) + 2) + "|"]
    for name in names:
        found = [each[name] for each in _TABLES.values() if name in each]
        cells = [each[name].kind if name in each else "unknown" for each in _TABLES.values()]
        notes = "; ".join(dict.fromkeys(each.note for each in found if each.note))
        lines.append(f"| `{name}` | {' | '.join(cells)} | {notes.replace('|', '/')} |")
    return "\n".join(lines) + "\n"


def written(document: str) -> str:
    """Return the document with the table in it."""
    before, _, rest = document.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{table()}{END}{after}"


if __name__ == "__main__":
    DOCUMENT.write_text(written(DOCUMENT.read_text()))
