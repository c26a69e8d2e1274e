"""A batch's files: input lines, what has ended so far, and the output in input order."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from stepserve.batch import openai_lines
from stepserve.protocol.errors import InvalidRequest, StepserveError
from stepserve.protocol.inference import Request
from stepserve.protocol.inference_json import request_from_json


class BatchFailed(StepserveError):
    """The batch's files cannot be read or written."""


@dataclass(frozen=True, slots=True)
class BatchLine:
    """One input line: its request, or what is wrong with it; ``arrival_s`` from the start.

    ``number`` counts from 0; ``payload`` is what of the line its result is made with.
    """

    number: int
    request: Request | None
    arrival_s: float = 0.0
    error: str = ""
    payload: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_openai(self) -> bool:
        """Whether it is in OpenAI's form, and its result shall be."""
        return openai_lines.is_openai(self.payload)


def read_input(path: Path) -> bytes:
    """Return the file's content. Raises BatchFailed."""
    with _files(path):
        return path.read_bytes()


def parse_lines(content: bytes, model: str) -> tuple[str, list[BatchLine]]:
    """Return a digest of the input and the model, and the lines; blank ones are left out.

    A line that is no request is there as well, with the error.
    """
    name = model.encode("utf-8", "surrogateescape")
    digest = hashlib.sha256(b"%d:%b%b" % (len(name), name, content)).hexdigest()
    # Not splitlines: JSON may have other ends of lines in its texts.
    texts = enumerate(content.split(b"\n"))
    return digest, [_line(number, text, digest) for number, text in texts if text.strip()]


def _line(number: int, text: bytes, digest: str) -> BatchLine:
    payload: dict[str, Any] = {}
    try:
        payload = _object(text)
        own = {name: value for name, value in payload.items() if name != "custom_id"}
        arrival_s = _arrival_s(own.pop("arrival_s", None))
        if openai_lines.is_openai(own):
            request = openai_lines.request_of(own)
        else:
            request = request_from_json(own)
    except InvalidRequest as error:
        return BatchLine(number, None, error=str(error), payload=openai_lines.kept_of(payload))
    except json.JSONDecodeError as error:
        return BatchLine(number, None, error=f"not JSON: {error.msg} at column {error.colno}")
    except UnicodeDecodeError as error:
        return BatchLine(number, None, error=f"not UTF-8 at byte {error.start}")
    except (ValueError, OverflowError):
        return BatchLine(number, None, error="a number has too many digits")
    except RecursionError:
        return BatchLine(number, None, error="nested too deeply")
    if not request.idempotency_key:
        # The same line of the same file is the same job, however often the run is started.
        request = replace(request, idempotency_key=f"batch:{digest[:32]}:{number}")
    return BatchLine(number, request, arrival_s, payload=openai_lines.kept_of(payload))


def _object(text: bytes) -> dict[str, Any]:
    payload = json.loads(text.decode())
    if not isinstance(payload, dict):
        raise InvalidRequest("request", "a line is a JSON object")
    return payload


def _arrival_s(value: Any) -> float:
    if value is None:
        return 0.0
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    # Neither infinity nor NaN, which JSON lacks and Python reads.
    if not is_number or not 0 <= value < float("inf"):
        raise InvalidRequest("arrival_s", "must be a number of seconds, not negative")
    return float(value)


class Progress:
    """What has ended, kept in a file beside the output until all has.

    Its methods raise BatchFailed where a file can't be written.
    """

    def __init__(self, output: Path, digest: str) -> None:
        self._output = output
        self._path = output.with_name(output.name + ".partial")
        self.results: dict[int, Mapping[str, Any]] = {}
        with _files(self._path):
            output.parent.mkdir(parents=True, exist_ok=True)
            self._load(digest)

    def _load(self, digest: str) -> None:
        content = self._path.read_bytes() if self._path.exists() else b""
        first, *rest = map(_loads, content.split(b"\n"))
        same = first.get("digest") == digest
        if same:
            # A line that was cut short by a kill is run again.
            self.results = {entry["line"]: entry["result"] for entry in rest if "result" in entry}
        self._file = self._path.open("ab" if same else "wb")
        self._file.write(b"\n" if same else _dumps({"digest": digest}))

    def add(self, number: int, result: Mapping[str, Any]) -> None:
        """Take note of one line's result; it survives this process."""
        self.results[number] = result
        with _files(self._path):
            self._file.write(_dumps({"line": number, "result": result}))
            self._file.flush()

    def finish(self) -> None:
        """Write the output, in input order, all at once."""
        whole = self._output.with_name(self._output.name + ".whole")
        with _files(self._output):
            self._file.close()
            with whole.open("wb") as out:
                out.writelines(_dumps(result) for _, result in sorted(self.results.items()))
            whole.replace(self._output)
            self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Keep what there is, for another run to go on from."""
        with _files(self._path):
            self._file.close()


def check_output(path: Path, source: Path) -> None:
    """Raise BatchFailed where no results can be put at ``path``: before there are any."""
    with _files(path):
        if path.exists() and not path.is_file():
            raise BatchFailed(f"{path}: is not a file")
        if path.exists() and path.samefile(source):
            raise BatchFailed(f"{path}: the input would be overwritten")


@contextmanager
def _files(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BatchFailed(f"{path}: {error.strerror}") from None


def _dumps(value: Mapping[str, Any]) -> bytes:
    # Half of a surrogate pair, which an error may quote, becomes its JSON escape.
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def _loads(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
