"""Whether what a text has to be can be followed, before a job is stored that asks for it."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from stepserve.grammars.compiler import Compiler, GrammarRefused
from stepserve.protocol.errors import Exhausted, InvalidRequest
from stepserve.protocol.structured import StructuredOutputs

MAX_WAITING = 256
_RETRY_AFTER_MS = 1000


class Grammars:
    """Compiles in one thread, so that nothing else waits for it, by the workers' limits."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "grammars")
        self._compiler: Compiler | None = None
        self._num_waiting = 0

    async def check(self, asked: StructuredOutputs | None) -> None:
        """Raise InvalidRequest where it can't be followed, Exhausted where too many wait."""
        if asked is None:
            return
        if self._num_waiting >= MAX_WAITING:
            raise Exhausted("too many structured outputs are compiled at once", _RETRY_AFTER_MS)
        self._num_waiting += 1
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._compile, asked)
        except GrammarRefused as error:
            path = f"sampling.structured_outputs.{asked.kinds[0]}"
            raise InvalidRequest(path, str(error)) from error
        finally:
            self._num_waiting -= 1

    def _compile(self, asked: StructuredOutputs) -> None:
        if self._compiler is None:
            self._compiler = Compiler.of_bytes()
        self._compiler.matcher(asked)
