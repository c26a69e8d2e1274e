"""What a scheduler must know of a model, read from its checkpoint's text files alone."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scheduler_svc.text.chat import ChatTemplate
from scheduler_svc.text.pretrained import VOCABULARY_FILES, CardError, load_pretrained
from scheduler_svc.text.tokenizer import Tokenizer
from stepserve.modelfiles.directory import CheckpointError, locate, read_json
from stepserve.modelfiles.end_tokens import read_end_tokens
from stepserve.modelfiles.facts import ModelFacts, read_facts
from stepserve.modelfiles.sampling_defaults import read_sampling_defaults
from stepserve.modelfiles.sources import name_of
from stepserve.protocol.sampling import MAX_END_TOKENS, SamplingParams

_TEXT_FILES = ("*.json", "*.jinja", *VOCABULARY_FILES)

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
    # What a request leaves open.
    sampling_defaults: SamplingParams = field(default_factory=SamplingParams)

    @classmethod
    def load(cls, source: str | Path, name: str | None = None) -> ModelCard:
        """Read the card of the checkpoint in a directory, or of a Hugging Face id.

        Of a Hugging Face model only the text files are downloaded. The
        default name is the last part of ``source``. Raises CardError with one line.
        """
        folder, facts, end_tokens = _checkpoint(source)
        pretrained = load_pretrained(folder)
        tokenizer = None if pretrained is None else Tokenizer.of(pretrained)
        special_tokens = _special_tokens(pretrained)
        template, problem = _chat_template(folder, pretrained, special_tokens)
        ends = _eos_token_ids(end_tokens, tokenizer, special_tokens)
        if len(ends) > MAX_END_TOKENS:
            raise CardError(f"{folder}: {len(ends)} tokens end a text, more than {MAX_END_TOKENS}")
        return cls(
            name=name or name_of(source),
            max_context=facts.max_context,
            vocab_size=facts.vocab_size,
            eos_token_ids=ends,
            tokenizer=tokenizer,
            tokenizer_fingerprint=_fingerprint(folder),
            chat_template=template,
            chat_problem=problem,
            sampling_defaults=_sampling_defaults(folder),
        )


def _checkpoint(source: str | Path) -> tuple[Path, ModelFacts, tuple[int, ...] | None]:
    """Where it is, and what both services read of it alike."""
    try:
        folder = locate(source, _TEXT_FILES)
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


def _sampling_defaults(folder: Path) -> SamplingParams:
    try:
        return read_sampling_defaults(folder)
    except CheckpointError as error:
        raise CardError(str(error)) from error


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
