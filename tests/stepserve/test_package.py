"""What ``stepserve`` gives is imported late; type checkers are told the same as happens."""

from __future__ import annotations

import ast
from pathlib import Path

import stepserve
import stepserve.client


def told_to_type_checkers() -> dict[str, str]:
    """Where each name is imported from under TYPE_CHECKING."""
    tree = ast.parse(Path(stepserve.__file__).read_text(encoding="utf-8"))
    (block,) = (
        node
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    return {
        alias.asname or alias.name: str(node.module)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def test_a_name_comes_from_where_type_checkers_are_told() -> None:
    told = told_to_type_checkers()
    assert told == stepserve._HOME
    assert stepserve.__all__ == sorted([*told, "__version__"])
    assert all(hasattr(stepserve, name) for name in stepserve.__all__)


def test_the_clients_and_all_that_they_raise_are_at_hand() -> None:
    assert stepserve.client.Client is stepserve.Client
    assert stepserve.client.AsyncClient is stepserve.AsyncClient
    raised = {name for name in stepserve.client.errors.__all__ if name[0].isupper()}
    assert raised <= set(stepserve.__all__)
