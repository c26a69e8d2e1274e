"""What the api must know of a model, read from its checkpoint's text files alone."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from scheduler_svc.api.chat import ChatTemplate
from scheduler_svc.api.pretrained import VOCABULARY_FILES, CardError, load_pretrained
from scheduler_svc.api.tokenizer import Tokenizer

_TEXT_FILES = ["*.json", "*.jinja", *VOCABULARY_FILES]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelCard:
    """A served model. ``max_context`` is prompt and output tokens together.

    A checkpoint without a vocabulary has no ``tokenizer``: it takes and gives token ids
    only. ``tokenizer_fingerprint`` is the SHA-256 of tokenizer.json, or of the vocabulary
    where there is none, or empty. ``chat_problem`` says why there is no ``chat_template``.
    """

    name: str
    max_context: int
    vocab_size: int
    eos_token_ids: frozenset[int]
    tokenizer: Tokenizer | None = None
    tokenizer_fingerprint: str = ""
    chat_template: ChatTemplate | None = None
    chat_problem: str = "this model has no chat template"

    @classmethod
    def load(cls, source: str | Path, name: str | None = None) -> ModelCard:
        """Read the card of the checkpoint in a directory, or of a Hugging Face id.

        Of a Hugging Face model only the text files are downloaded. The
        default name is the last part of ``source``. Raises CardError with one line.
        """
        folder = _folder(str(source))
        config = _read_json(folder / "config.json", required=True)
        text_config = {**config, **config.get("text_config", {})}
        pretrained = load_pretrained(folder)
        tokenizer = None if pretrained is None else Tokenizer.of(pretrained)
        special_tokens = _special_tokens(pretrained)
        template, problem = _chat_template(folder, pretrained, special_tokens)
        return cls(
            name=name or Path(str(source).rstrip("/")).resolve().name,
            max_context=_positive(text_config, "max_position_embeddings"),
            vocab_size=_positive(text_config, "vocab_size"),
            eos_token_ids=_eos_token_ids(folder, text_config, tokenizer, special_tokens),
            tokenizer=tokenizer,
            tokenizer_fingerprint=_fingerprint(folder),
            chat_template=template,
            chat_problem=problem,
        )


def _folder(source: str) -> Path:
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_absolute() or source.startswith((".", "~")) or source.count("/") != 1:
        raise CardError(f"{source}: no such directory")
    try:
        return Path(snapshot_download(source, allow_patterns=_TEXT_FILES))
    except Exception as error:
        # The hub's client raises a dozen kinds, of four libraries; one line is enough.
        reason = str(error).strip().splitlines()
        raise CardError(f"{source}: {reason[0] if reason else type(error).__name__}") from error


def _read_json(path: Path, required: bool = False) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        if required:
            raise CardError(f"{path}: no such file") from error
        return {}
    except (OSError, ValueError) as error:
        raise CardError(f"{path}: {error}") from error
    if not isinstance(value, dict):
        raise CardError(f"{path}: is not a JSON object")
    return value


def _positive(config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or value < 1:
        raise CardError(f"config.json: {key} is {value!r}, not a positive integer")
    return value


def _special_tokens(pretrained: Any) -> dict[str, str]:
    """Return the special tokens that have names: {"bos_token": "<s>", "image_token": ...}."""
    names = {} if pretrained is None else pretrained.special_tokens_map
    return {name: str(token) for name, token in names.items() if isinstance(token, str)}


def _fingerprint(folder: Path) -> str:
    paths = [folder / name for name in VOCABULARY_FILES]
    contents = [path.read_bytes() for path in paths if path.is_file()]
    # tokenizer.json, the first of them, holds what is in the others.
    return hashlib.sha256(b"".join(contents[:1])).hexdigest() if contents else ""


def _eos_token_ids(
    folder: Path,
    config: Mapping[str, Any],
    tokenizer: Tokenizer | None,
    special_tokens: Mapping[str, str],
) -> frozenset[int]:
    """Return the ids that end an output: the generation config's, else the config's."""
    for source in (_read_json(folder / "generation_config.json"), config):
        ids = source.get("eos_token_id")
        if isinstance(ids, int):
            return frozenset((ids,))
        if isinstance(ids, list) and ids:
            return frozenset(ids)
    token = special_tokens.get("eos_token")
    token_id = tokenizer.token_id(token) if tokenizer is not None and token else None
    return frozenset() if token_id is None else frozenset((token_id,))


def _chat_template(
    folder: Path, pretrained: Any, special_tokens: Mapping[str, str]
) -> tuple[ChatTemplate | None, str]:
    """Return the template or why there is none, which is no reason not to serve prompts."""
    source = getattr(pretrained, "chat_template", None)
    if isinstance(source, dict):
        source = source.get("default")
    source = source or _read_json(folder / "chat_template.json").get("chat_template")
    if not source:
        return None, ModelCard.chat_problem
    try:
        return ChatTemplate(source, special_tokens), ModelCard.chat_problem
    except CardError as error:
        log.warning("%s: %s; chats are refused, prompts are served", folder, error)
        return None, str(error)
