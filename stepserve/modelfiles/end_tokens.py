"""Which token ids end a model's output, from its JSON files, as transformers' generate reads them.

Its rules: generation_config.json alone decides where it is there, else config.json. An id that
is no token's never ends anything. config.json takes integers only, whether or not it decides;
generation_config.json's fractions are cut off and its truths are 0 and 1.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from stepserve.modelfiles.directory import CheckpointError, read_json

log = logging.getLogger(__name__)

KEY = "eos_token_id"
# More than a 64-bit integer holds is refused by torch.
_MIN_ID, _MAX_ID = -(2**63), 2**63 - 1


def read_end_tokens(directory: Path, vocab_size: int) -> tuple[int, ...] | None:
    """The ids below ``vocab_size`` that end an output; None where the deciding file names none.

    What is no token id is left out, and a warning says so.

    Raises:
        CheckpointError: a value that transformers does not take either.
    """
    path = directory / "config.json"
    value = read_json(path).get(KEY)
    if not all(type(entry) is int for entry in _entries(value)):
        raise CheckpointError(f"{path}: {KEY} is {value!r}, not a token id or a list of them")
    generation = directory / "generation_config.json"
    if generation.exists():
        path = generation
        value = read_json(path).get(KEY)
    if value is None:
        return None
    ids = [_integer(path, entry) for entry in _entries(value)]
    kept = tuple(dict.fromkeys(token_id for token_id in ids if 0 <= token_id < vocab_size))
    if dropped := sorted({*ids} - {*kept}):
        names = ", ".join(map(str, dropped))
        log.warning("%s: %s %s is left out: no token has it", path, KEY, names)
    return kept


def _entries(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _integer(path: Path, value: Any) -> int:
    try:
        number = int(value) if isinstance(value, int | float) else None
    except (ValueError, OverflowError):  # of a NaN, of an infinity
        number = None
    if number is None or not _MIN_ID <= number <= _MAX_ID:
        raise CheckpointError(f"{path}: {KEY} has {value!r} in it, which is no token id")
    return number
