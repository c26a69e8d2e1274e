"""The file that keys are in: JSON, without the keys themselves."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile

from pydantic import ValidationError

from scheduler_svc.access.api_key import ApiKey
from stepserve.protocol.errors import StepserveError

MAX_FILE_BYTES = 16 * 1024 * 1024
# Whoever owns it; its group where a Secret is mounted for one.
_NEW_MODE = 0o600


class BadKeyFile(StepserveError):
    """The file of keys is not there, or is none."""


def read_keys(path: Path) -> tuple[ApiKey, ...]:
    """Return the keys of a file. Raises BadKeyFile, which quotes nothing of it."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise BadKeyFile(f"{path} has more than {MAX_FILE_BYTES} bytes")
        content = path.read_bytes()
    except OSError as error:
        raise BadKeyFile(f"the API keys in {path} can't be read: {error.strerror}") from None
    try:
        entries = json.loads(content)["keys"]
        keys = tuple(_key(path, number, entry) for number, entry in enumerate(entries, 1))
    except (ValueError, KeyError, TypeError, RecursionError):
        problem = 'is no file of API keys: an object with an array "keys" is needed'
        raise BadKeyFile(f"{path} {problem}") from None
    for name in ("key_id", "sha256"):
        if len({getattr(key, name) for key in keys}) < len(keys):
            raise BadKeyFile(f"{path}: two keys have the same {name}")
    return keys


def add_key(path: Path, key: ApiKey) -> None:
    """Put a key into a file, which is made where it is not there. Raises BadKeyFile."""
    _change(path, lambda keys: (*keys, key))


def remove_key(path: Path, key_id: str) -> None:
    """Take a key out of a file. Raises BadKeyFile, also where it is not in it."""

    def without(keys: Sequence[ApiKey]) -> Sequence[ApiKey]:
        left = [key for key in keys if key.key_id != key_id]
        if len(left) == len(keys):
            raise BadKeyFile(f"{path} has no key {key_id!r}")
        return left

    if not path.exists():
        read_keys(path)
    _change(path, without)


def _key(path: Path, number: int, entry: object) -> ApiKey:
    try:
        return ApiKey.model_validate(entry)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False, include_context=False)
        told = "; ".join(f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in problems[:3])
        raise BadKeyFile(f"{path}: key {number}: {told}") from None


def _change(path: Path, change: Callable[[Sequence[ApiKey]], Sequence[ApiKey]]) -> None:
    """Write a file anew, whole or not at all; one at a time."""
    try:
        with _alone_in(path.resolve().parent):
            keys = change(read_keys(path) if path.exists() else ())
            _replace(path.resolve(), keys)
    except OSError as error:
        raise BadKeyFile(f"{path} can't be written: {error.strerror}") from None


@contextlib.contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _replace(path: Path, keys: Sequence[ApiKey]) -> None:
    entries = [key.model_dump(exclude_defaults=True) for key in keys]
    mode = path.stat().st_mode & 0o777 if path.exists() else _NEW_MODE
    with NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            json.dump({"keys": entries}, file, indent=1)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
            os.chmod(file.name, mode)
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise
