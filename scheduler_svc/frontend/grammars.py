"""Whether what a text has to be can be followed, before a job is stored that asks for it."""

from __future__ import annotations

from scheduler_svc.frontend.one_by_one import OneByOne
from stepserve.grammars.compiler import Compiler, GrammarRefused
from stepserve.protocol.errors import InvalidRequest
from stepserve.protocol.structured import StructuredOutputs


class Grammars:
    """Compiles in one thread, so that nothing else waits for it, by the workers' limits."""

    def __init__(self) -> None:
        self._line = OneByOne("structured outputs to be compiled")
        self._compiler: Compiler | None = None

    async def check(self, asked: StructuredOutputs | None, tenant: str) -> None:
        """Raise InvalidRequest where it can't be followed, Exhausted where too many wait."""
        if asked is None:
            return
        try:
            await self._line.run(tenant, lambda: self._compile(asked))
        except GrammarRefused as error:
            path = f"sampling.structured_outputs.{asked.kinds[0]}"
            raise InvalidRequest(path, str(error)) from error

    def _compile(self, asked: StructuredOutputs) -> None:
        if self._compiler is None:
            self._compiler = Compiler.of_bytes()
        self._compiler.matcher(asked)
