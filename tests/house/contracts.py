"""The import contract that import-linter lacks: a list of all that a module may import."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output


class OnlyContract(Contract):
    """``modules`` (with all below them) import nothing but each other and ``may_import``.

    Only direct imports count; what is behind an allowed module has a contract of its own.
    """

    modules = fields.ListField(subfield=fields.StringField())
    may_import = fields.ListField(subfield=fields.StringField())

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:  # noqa: ARG002 (their name)
        own = cast("Iterable[str]", self.modules)
        allowed = [*own, *cast("Iterable[str]", self.may_import)]
        broken = [
            f"{importer} -> {imported}"
            for importer in sorted(graph.modules)
            if _is_within(importer, own)
            for imported in sorted(graph.find_modules_directly_imported_by(importer))
            if not _is_within(imported, allowed)
        ]
        return ContractCheck(kept=not broken, metadata={"broken": broken})

    def render_broken_contract(self, check: ContractCheck) -> None:
        for line in check.metadata["broken"]:
            output.print_error(f"- {line}", bold=False)
        output.new_line()


def _is_within(module: str, packages: Iterable[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)
