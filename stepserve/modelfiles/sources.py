"""Which models are served, as settings name them. Reads no model's files."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator
from pydantic_settings import NoDecode

_MAX_SLUG_CHARS = 48


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A checkpoint directory or hub id, and the name that it is served under."""

    name: str
    source: str


def name_of(source: str | Path) -> str:
    """What a model is called where nobody names it: the last part of its source."""
    return Path(source).expanduser().resolve().name


def slug_of(name: str) -> str:
    """A model's name as the ids of its jobs have it: safe in URLs, file names and shells."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:_MAX_SLUG_CHARS]


def model_sources(texts: Sequence[str], name: str = "") -> tuple[ModelSource, ...]:
    """Return the models that are meant by SOURCE or NAME=SOURCE each.

    ``name`` is the only one's, where none stands before it. What is there as a path is a SOURCE,
    whatever characters it has. Raises ValueError where there is none, or two can't be told apart.
    """
    if name and len(texts) > 1:
        raise ValueError("--model-name names one model; with several write --model NAME=SOURCE")
    sources = tuple(_source(text, name) for text in texts if text)
    if not sources:
        raise ValueError("--model: is needed")
    for i, one in enumerate(sources):
        for other in sources[:i]:
            if one.name == other.name:
                raise ValueError(
                    f"--model: two are called {one.name!r}; name one by NAME={one.source}"
                )
            if slug_of(one.name) == slug_of(other.name):
                names = f"{other.name!r} and {one.name!r}"
                raise ValueError(f"--model: ids of jobs of {names} can't be told apart; rename one")
    return sources


def _source(text: str, given: str) -> ModelSource:
    before, equals, after = text.partition("=")
    is_named = bool(equals) and not Path(text).exists()
    name, source = (before, after) if is_named else ("", text)
    if not source:
        raise ValueError(f"--model: {text!r} names no checkpoint")
    return ModelSource(name or given or name_of(source), source)


def _listed(value: Any) -> Any:
    """What a variable says, a JSON list or texts with commas between, or a list of flags."""
    if isinstance(value, str):
        is_list, is_path = value.startswith("["), Path(value).exists()
        value = json.loads(value) if is_list else [value] if is_path else value.split(",")
    return [text for text in value if text] if isinstance(value, list) else value


# A setting of such a type: its flag may be given again, its variable has commas.
ModelList = Annotated[list[str], NoDecode, BeforeValidator(_listed)]
