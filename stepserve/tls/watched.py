"""Files of secrets, which are replaced while we run: whether they are other ones by now."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from stepserve.protocol.errors import StepserveError

Signature: TypeAlias = tuple[tuple[int, int, int], ...]


class WatchedFiles:
    """Tells when files were replaced or written. A mounted Secret changes by its links."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = tuple(filter(None, paths))
        self._seen: Signature | None = None

    def look(self) -> bool:
        """Whether they are others than at the look before; True at first.

        One that is not there, as while it is replaced, is no news.
        """
        try:
            now = tuple(map(_signature, self._paths))
        except OSError:
            return False
        is_news, self._seen = now != self._seen, now
        return is_news


def _signature(path: str) -> tuple[int, int, int]:
    found = os.stat(path)
    return found.st_mtime_ns, found.st_ino, found.st_size


def read_secret(path: str, what: str) -> bytes:
    """Return a file's content. Raises StepserveError where it can't be read, or is empty."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise StepserveError(f"{what} {path} can't be read: {error.strerror}") from None
    if not content.strip():
        raise StepserveError(f"{what} {path} is empty")
    return content
