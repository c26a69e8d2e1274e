"""Values as JSON that any client reads."""

from __future__ import annotations

import codecs
import contextlib
import json
from json.encoder import encode_basestring_ascii
from typing import Any

import orjson

_ESCAPE = "stepserve.json"
# What is longer, and not ASCII, is written faster by the standard library: escaping takes a
# call for each run of characters, and writing all of it anew a fixed time more.
_LONG_BYTES = 512
_anew = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode


def as_json(value: Any) -> bytes:
    """Return it in ASCII, without spaces.

    Escapes are read by everybody. Clients that split a stream's lines where Unicode would do so
    break what holds such a character as it is.
    """
    try:
        encoded = orjson.dumps(value)
    except TypeError:
        # What clients sent may hold half a character, which is no UTF-8, or a huge number.
        return json.dumps(value, separators=(",", ":")).encode()
    if encoded.isascii():
        return encoded
    if len(encoded) > _LONG_BYTES:
        # Not where it differs: a number that is none is null, and some values it does not know.
        with contextlib.suppress(TypeError, ValueError):
            return _anew(value).encode()
    return encoded.decode().encode("ascii", _ESCAPE)


def _escaped(error: UnicodeError) -> tuple[str, int]:
    """Return what stands for characters that are not ASCII, which only strings can hold."""
    assert isinstance(error, UnicodeEncodeError)
    return encode_basestring_ascii(error.object[error.start : error.end])[1:-1], error.end


codecs.register_error(_ESCAPE, _escaped)
