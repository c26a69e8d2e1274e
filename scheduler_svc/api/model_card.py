"""What the api must know of a model, read from its checkpoint's JSON files alone."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from modelfiles.directory import CheckpointError, locate, name_of, read_json
from modelfiles.end_tokens import read_end_tokens
from modelfiles.facts import ModelFacts, read_facts
from scheduler_svc.api.chat import CardError, ChatTemplate
from scheduler_svc.api.tokenizer import Tokenizer

# What is downloaded of a hub's model.
PATTERNS = ("*.json", "*.jinja")
_SPECIAL_NAMES = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)


@dataclass(frozen=True)
class ModelCard:
    """A served model. ``max_context`` is prompt and output tokens together.

    A checkpoint without tokenizer.json has no ``tokenizer``: it takes and gives token
    ids only. ``tokenizer_fingerprint`` is the SHA-256 of tokenizer.json, or empty.
    """

    name: str
    max_context: int
    vocab_size: int
    eos_token_ids: frozenset[int]
    tokenizer: Tokenizer | None = None
    tokenizer_fingerprint: str = ""
    chat_template: ChatTemplate | None = None

    @classmethod
    def load(cls, source: str | Path, name: str | None = None) -> ModelCard:
        """Read the card of the checkpoint in a directory, or of a Hugging Face id.

        Of a Hugging Face model only the JSON and template files are downloaded. The
        default name is the last part of ``source``. Raises CardError with one line.
        """
        folder, facts, end_tokens = _checkpoint(source)
        special_tokens = _special_tokens(folder)
        tokenizer, fingerprint = _load_tokenizer(folder, special_tokens)
        template = _template_source(folder)
        return cls(
            name=name or name_of(source),
            max_context=facts.max_context,
            vocab_size=facts.vocab_size,
            eos_token_ids=_eos_token_ids(end_tokens, tokenizer, special_tokens),
            tokenizer=tokenizer,
            tokenizer_fingerprint=fingerprint,
            chat_template=ChatTemplate(template, special_tokens) if template else None,
        )


def _checkpoint(source: str | Path) -> tuple[Path, ModelFacts, tuple[int, ...] | None]:
    """Where it is, and what both services read of it alike."""
    try:
        folder = locate(source, PATTERNS)
        facts = read_facts(folder)
        return folder, facts, read_end_tokens(folder, facts.vocab_size)
    except CheckpointError as error:
        raise CardError(str(error)) from error


def _read_json(path: Path) -> dict[str, Any]:
    """The object in a file, an empty one where there is no such file."""
    if not path.exists():
        return {}
    try:
        return read_json(path)
    except CheckpointError as error:
        raise CardError(str(error)) from error


def _special_tokens(folder: Path) -> dict[str, str]:
    """Return the named special tokens: {"bos_token": "<s>", ...}."""
    config = {
        **_read_json(folder / "special_tokens_map.json"),
        **_read_json(folder / "tokenizer_config.json"),
    }
    contents = {name: _content(config.get(name)) for name in _SPECIAL_NAMES}
    return {name: content for name, content in contents.items() if content}


def _content(token: Any) -> str:
    """Return a token's text; files hold it bare or as a serialized AddedToken."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else ""


def _load_tokenizer(
    folder: Path, special_tokens: Mapping[str, str]
) -> tuple[Tokenizer | None, str]:
    path = folder / "tokenizer.json"
    if not path.exists():
        return None, ""
    try:
        source = path.read_bytes()
        backend = Backend.from_buffer(source)
    except Exception as error:  # tokenizers raises bare Exception
        raise CardError(f"{path}: {error}") from error
    # As in transformers: the tokens that the config names are special, and whether BOS is
    # put in front is tokenizer.json's word alone (add_bos_token is for slow tokenizers).
    known = [token for token in special_tokens.values() if backend.token_to_id(token) is not None]
    backend.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in known]
    )
    return Tokenizer(backend), hashlib.sha256(source).hexdigest()


def _eos_token_ids(
    end_tokens: Sequence[int] | None,
    tokenizer: Tokenizer | None,
    special_tokens: Mapping[str, str],
) -> frozenset[int]:
    """Return the ids that end an output: the tokenizer's end token where no config names any."""
    if end_tokens is not None:
        return frozenset(end_tokens)
    token = special_tokens.get("eos_token")
    token_id = tokenizer.token_id(token) if tokenizer is not None and token else None
    return frozenset() if token_id is None else frozenset((token_id,))


def _template_source(folder: Path) -> str:
    """Return the chat template's text: of its own file, or within the tokenizer's config."""
    path = folder / "chat_template.jinja"
    if path.exists():
        return path.read_text(encoding="utf-8")
    for name in ("chat_template.json", "tokenizer_config.json"):
        template = _read_json(folder / name).get("chat_template")
        if isinstance(template, str):
            return template
        if isinstance(template, list):
            named = {entry["name"]: entry["template"] for entry in template}
            return str(named.get("default", ""))
    return ""
