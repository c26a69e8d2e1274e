"""Functions, files and parameter lists stay small enough to be read in one go."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.house.sources import ROOT, python_files

MAX_FUNCTION_LINES = 60
MAX_FILE_LINES = 400
MAX_PARAMETERS = 6

Function = ast.FunctionDef | ast.AsyncFunctionDef


def offences(path: Path, source: str) -> Iterator[str]:
    """Yield a line for each limit that the source exceeds."""
    num_lines = len(source.splitlines())
    if num_lines > MAX_FILE_LINES:
        yield f"{path}: {num_lines} lines"
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, Function):
            continue
        where = f"{path}:{node.lineno} {node.name}"
        if num_function_lines(node) > MAX_FUNCTION_LINES:
            yield f"{where}: {num_function_lines(node)} lines"
        if num_parameters(node) > MAX_PARAMETERS and not is_kernel(node):
            yield f"{where}: {num_parameters(node)} parameters"


def num_function_lines(function: Function) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


def num_parameters(function: Function) -> int:
    arguments = function.args
    names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def is_kernel(function: Function) -> bool:
    """A kernel's parameters are pointers and strides: Triton gives it no way to take a struct."""
    return any(
        ast.unparse(decorator).startswith("triton.jit") for decorator in function.decorator_list
    )


def test_sizes() -> None:
    found = [
        line
        for path in python_files()
        for line in offences(path.relative_to(ROOT), path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(["too large:", *found])


def test_offences_are_found() -> None:
    long_function = "def f(a, b, c, d, e, g, h):\n" + "    pass\n" * MAX_FUNCTION_LINES
    kernel = "@triton.jit\ndef k(a, b, c, d, e, f, g): ...\n"
    method = "class C:\n    def m(self, a, b, c, d, e, f): ...\n"
    source = long_function + kernel + method + "\n" * MAX_FILE_LINES
    found = [line.rpartition(": ")[2] for line in offences(Path("x.py"), source)]
    assert found == ["465 lines", "61 lines", "7 parameters"]
