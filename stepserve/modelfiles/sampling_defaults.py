"""How a model's maker wants its tokens chosen, from its generation_config.json.

What vLLM takes from there: an absent field of a request has the value that stands there.
Whether transformers would sample at all (do_sample) is not asked: a request of temperature 0
says so itself.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from stepserve.modelfiles.directory import read_json
from stepserve.protocol.sampling import RANGES, SamplingParams

log = logging.getLogger(__name__)

FILE = "generation_config.json"
# Name there: name here. top_k and max_new_tokens are counts.
_NUMBERS = ("temperature", "top_p", "min_p", "repetition_penalty")
_COUNTS = {"top_k": "top_k", "max_new_tokens": "max_tokens"}
_MAX_COUNT = 2**32 - 1


def read_sampling_defaults(directory: Path) -> SamplingParams:
    """The values that a request need not name; none where there is no such file.

    What no request could ask for is left out, and a warning says so. Raises CheckpointError
    where the file holds no JSON object.
    """
    path = directory / FILE
    values = read_json(path) if path.exists() else {}
    found: dict[str, Any] = {}
    for name in (*_NUMBERS, *_COUNTS):
        value = values.get(name)
        if value is None:
            continue
        problem = _count_problem(name, value) if name in _COUNTS else _problem(name, value)
        if problem:
            log.warning("%s: %s %s; it is left out", path, name, problem)
        elif name in _COUNTS:
            found[_COUNTS[name]] = int(value)
        else:
            found[name] = float(value)
    if found:
        log.info("%s: what a request leaves open: %s", path, found)
    return SamplingParams(**found)


def _problem(name: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"is {value!r}, no number"
    return RANGES[name].problem(value)


def _count_problem(name: str, value: Any) -> str:
    least = 0 if name == "top_k" else 1
    is_count = type(value) is int or (type(value) is float and value.is_integer())
    if not is_count or not least <= value <= _MAX_COUNT:
        return f"is {value!r}, no count"
    return ""
