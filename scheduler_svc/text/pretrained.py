"""The door to transformers: a checkpoint's tokenizer and chat templates, as it reads them.

What ``AutoTokenizer`` makes of a directory depends on six files, the model's type and a
class for each family. Only the library itself gives the same for all of them, so it is
what reads them, but without torch, which text has no use for: this costs a scheduler
1.1 s and 26 MiB at its start; with torch it would be 3 s and 240 MiB.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stepserve.protocol.errors import StepserveError

# Any of these is a vocabulary; without one a checkpoint has no tokenizer.
VOCABULARY_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tekken.json",
    "tiktoken.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)


class CardError(StepserveError):
    """A checkpoint's text files can't be used."""


def load_pretrained(folder: Path) -> Any:
    """Return what ``AutoTokenizer`` makes of a directory; None where it has no vocabulary.

    Raises CardError, one line, where it can't be used, or reads none of the files there.
    """
    files = [name for name in VOCABULARY_FILES if (folder / name).is_file()]
    if not files:
        return None
    with _without_torch():
        from transformers import AutoTokenizer, TokenizersBackend

        try:
            pretrained = AutoTokenizer.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False
            )
        except Exception as error:  # tokenizers raises bare Exception, transformers a dozen kinds
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            name = files[0] if _has_config(folder) else "config.json"
            raise CardError(f"{folder / name}: {reason}") from error
    kind = type(pretrained).__name__
    if not isinstance(pretrained, TokenizersBackend):
        raise CardError(f"{folder}: a {kind} can't be served, only what tokenizer.json can say")
    if not _has_vocabulary(pretrained.backend_tokenizer):
        raise CardError(f"{folder}: {' and '.join(files)} gave a {kind} no vocabulary")
    return pretrained


def _has_config(folder: Path) -> bool:
    """Return whether the config is not what keeps ``AutoTokenizer`` from reading a directory."""
    from transformers import AutoConfig

    try:
        AutoConfig.from_pretrained(str(folder), local_files_only=True)
    except (ValueError, OSError):
        return True  # another kind of model, say: its tokenizer needs no config
    except Exception:
        return False
    return True


def _has_vocabulary(backend: Any) -> bool:
    """Some classes that lack their files begin with special tokens alone and say nothing."""
    added = {token.content for token in backend.get_added_tokens_decoder().values()}
    return not backend.get_vocab(with_added_tokens=False).keys() <= added


def render(
    source: str,
    messages: Sequence[Mapping[str, Any]],
    names: Mapping[str, Any],
    tools: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Render a conversation up to where the answer begins; an empty one compiles ``source`` only.

    ``names`` are what the template may name: the special tokens, and what else it knows. Raises
    what jinja2 raises.
    """
    with _without_torch():
        from transformers.utils.chat_template_utils import render_jinja_template
    texts, _ = render_jinja_template(
        conversations=[messages] if messages else [],
        tools=list(tools) or None,
        chat_template=source,
        **{"add_generation_prompt": True, **names},
    )
    return "".join(texts)


@contextmanager
def _without_torch() -> Iterator[None]:
    """Let transformers, where it is imported first here, find no torch and not complain of it."""
    if "torch" in sys.modules or "transformers" in sys.modules:
        yield
        return
    advice = "TRANSFORMERS_NO_ADVISORY_WARNINGS"
    had_advice = advice in os.environ
    sys.modules["torch"] = None  # type: ignore[assignment]
    os.environ.setdefault(advice, "1")
    try:
        yield
    finally:
        del sys.modules["torch"]
        if not had_advice:
            del os.environ[advice]
