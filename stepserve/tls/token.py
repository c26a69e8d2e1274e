"""A secret that two sides share by a file, read again when it changes."""

from __future__ import annotations

import hmac
import logging

from stepserve.protocol.errors import StepserveError
from stepserve.tls.watched import WatchedFiles, read_secret

log = logging.getLogger(__name__)

MIN_TOKEN_CHARS = 16
BEARER = "Bearer "


class Token:
    """The content of a file, without the white space around it."""

    def __init__(self, path: str) -> None:
        """Raise StepserveError where it can't be read, or holds too little."""
        self._path = path
        self._files = WatchedFiles([path])
        self._files.look()
        self._value = _read(path)

    @property
    def value(self) -> str:
        """What the file holds now; while it can't be read, what it held."""
        if self._files.look():
            try:
                self._value = _read(self._path)
            except StepserveError as error:
                log.error("%s; the one before stays", error)
        return self._value

    @property
    def authorization(self) -> str:
        """What who knows it says."""
        return BEARER + self.value

    def is_shown(self, authorization: str | bytes) -> bool:
        """Whether somebody says so. Takes as long wherever it differs."""
        said = authorization if isinstance(authorization, bytes) else authorization.encode()
        return hmac.compare_digest(said, self.authorization.encode())


def _read(path: str) -> str:
    try:
        text = read_secret(path, "token").decode("ascii").strip()
    except UnicodeError:
        raise StepserveError(f"token {path} has other characters than ASCII's") from None
    if len(text) < MIN_TOKEN_CHARS or not text.isprintable():
        problem = f"needs at least {MIN_TOKEN_CHARS} characters, in one line"
        raise StepserveError(f"token {path} {problem}")
    return text
