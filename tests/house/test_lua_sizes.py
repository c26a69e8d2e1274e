"""The functions and scripts of queue.lua stay as small as functions elsewhere.

A function is counted with the comment above it, a script without its functions and the comment
that heads it. The file is longer than others: it holds all scripts, so that one header names
every key.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.house.sources import ROOT
from tests.house.test_sizes import MAX_FUNCTION_LINES, MAX_PARAMETERS

QUEUE = ROOT / "scheduler_svc/queue/queue.lua"
FUNCTION = re.compile(
    r"^(?:--[^\n]*\n)*local function (\w+)\(([^)]*)\)\n.*?^end\n", re.MULTILINE | re.DOTALL
)


def offences(source: str) -> Iterator[str]:
    """Yield a line for each limit that a function or a script exceeds."""
    _, *parts = re.split(r"^--@ (\w+)\n", source, flags=re.MULTILINE)
    for script, body in zip(parts[::2], parts[1::2], strict=True):
        for function in FUNCTION.finditer(body):
            name, parameters = function.groups()
            yield from _too_long(f"{script}, {name}", function.group())
            if (count := len(parameters.split(","))) > MAX_PARAMETERS:
                yield f"{script}, {name}: {count} parameters"
        yield from _too_long(script, re.sub(r"\A(--.*\n)+", "", FUNCTION.sub("", body)))


def _too_long(name: str, text: str) -> Iterator[str]:
    num_lines = len(text.strip().splitlines())
    if num_lines > MAX_FUNCTION_LINES:
        yield f"{name}: {num_lines} lines"


def test_sizes() -> None:
    source = QUEUE.read_text(encoding="utf-8")
    assert len(FUNCTION.findall(source)) == source.count("\nlocal function ")
    found = list(offences(source))
    assert not found, "\n".join(["too large:", *found])


def test_offences_are_found() -> None:
    line = "  work()\n"
    function = "local function f(a, b, c, d, e, g, h)\n" + line * MAX_FUNCTION_LINES + "end\n"
    script = "-- What it does.\n\n" + line * MAX_FUNCTION_LINES
    source = f"--@ short\n{script}--@ long\n{script}{line}{function}"
    assert list(offences(source)) == [
        "long, f: 62 lines",
        "long, f: 7 parameters",
        "long: 61 lines",
    ]
