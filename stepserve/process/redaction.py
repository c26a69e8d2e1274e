"""What is said of an address never holds its password."""

from __future__ import annotations

import re

_USER_INFO = re.compile(r"(?<=://)(?P<user>[^/@:?#]*:)?[^/].*@", re.DOTALL)
_SECRET_PARAMETER = re.compile(r"([?&][^=&?]*password=)[^&\s]*", re.IGNORECASE)


def redacted(text: str) -> str:
    """Return a URL, or a text that holds some, without passwords: for messages and logs.

    Whatever stands before the last "@" may belong to a password that was not encoded, and
    a name alone may be a password that misses its colon. Only a path (``unix:///a@b``) holds none.
    """
    text = _SECRET_PARAMETER.sub(r"\1***", text)
    return _USER_INFO.sub(lambda found: f"{found['user'] or ''}***@", text)
