"""Grammars of a checkpoint's tokens, read and compiled by a thread of their own."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from llguidance import LLMatcher, LLTokenizer

from stepserve.grammars.compiler import Compiler, GrammarRefused
from stepserve.modelfiles.end_tokens import read_end_tokens
from stepserve.protocol.structured import StructuredOutputs

TOKENIZER_FILE = "tokenizer.json"


class Grammars:
    """Compiles what texts have to be, one after the other, while steps are computed.

    The tokenizer is read before the first one, at once where it is one file.
    """

    def __init__(self, directory: Path, vocab_size: int) -> None:
        self._directory, self._vocab_size = directory, vocab_size
        self._thread = ThreadPoolExecutor(1, "grammars")
        self._compiler: Compiler | None = None
        if (directory / TOKENIZER_FILE).is_file():
            self._thread.submit(self._ready)

    @property
    def end_token_id(self) -> int:
        """The token by which matchers say that their text may end, once there is one."""
        return self._ready().end_token_id

    def matcher(self, asked: StructuredOutputs) -> Future[LLMatcher]:
        """Compile; the future raises GrammarRefused where that can't be done."""
        return self._thread.submit(self._compile, asked)

    def _compile(self, asked: StructuredOutputs) -> LLMatcher:
        return self._ready().matcher(asked)

    def _ready(self) -> Compiler:
        if self._compiler is None:
            self._compiler = Compiler(self._tokenizer())
        return self._compiler

    def _tokenizer(self) -> LLTokenizer:
        try:
            ends = read_end_tokens(self._directory, self._vocab_size) or (None,)
            text = _tokenizer_json(self._directory)
            return LLTokenizer(text, n_vocab=self._vocab_size, eos_token=ends[0])
        except Exception as error:  # of transformers, tokenizers or llguidance
            raise GrammarRefused(f"the model's tokenizer can't be read: {error}") from error


def _tokenizer_json(directory: Path) -> str:
    path = directory / TOKENIZER_FILE
    if path.is_file():
        return path.read_text(encoding="utf-8")
    from transformers import AutoTokenizer

    pretrained = AutoTokenizer.from_pretrained(str(directory), local_files_only=True)
    text: str = pretrained.backend_tokenizer.to_str()
    return text
