"""Whether what a text has to be can be followed, before a job is stored that asks for it."""

from __future__ import annotations

import hashlib
import json

from scheduler_svc.frontend.one_by_one import OneByOne
from stepserve.grammars.compiler import Compiler, GrammarRefused
from stepserve.protocol.errors import InvalidRequest
from stepserve.protocol.structured import StructuredOutputs

MAX_REMEMBERED = 1024


class Grammars:
    """Compiles in one thread, so that nothing else waits for it, by the workers' limits.

    These count work, so what came of it once would come of it again: it is remembered.
    """

    def __init__(self) -> None:
        self._line = OneByOne("structured outputs to be compiled")
        self._compiler: Compiler | None = None
        # What is wrong with each, maybe nothing; by digest, the oldest first.
        self._problems: dict[bytes, str] = {}

    async def check(self, asked: StructuredOutputs | None, tenant: str) -> None:
        """Raise InvalidRequest where it can't be followed, Exhausted where too many wait."""
        if asked is None:
            return
        digest = hashlib.sha256(json.dumps(asked.values).encode()).digest()
        problem = self._problems.get(digest)
        if problem is None:
            problem = await self._line.run(tenant, lambda: self._problem(asked))
            self._problems[digest] = problem
            if len(self._problems) > MAX_REMEMBERED:
                del self._problems[next(iter(self._problems))]
        if problem:
            raise InvalidRequest(f"sampling.structured_outputs.{asked.kinds[0]}", problem)

    def _problem(self, asked: StructuredOutputs) -> str:
        if self._compiler is None:
            self._compiler = Compiler.of_bytes()
        try:
            self._compiler.matcher(asked)
        except GrammarRefused as error:
            return str(error)
        return ""
