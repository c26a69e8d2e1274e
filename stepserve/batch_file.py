"""A batch's files: input lines, what has ended so far, and the output in input order."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from protos.errors import InvalidRequest, StepserveError
from protos.inference import Request
from protos.inference_json import request_from_json
from protos.inference_wire import decode_request


class BatchFailed(StepserveError):
    """The batch's files cannot be read or written."""


@dataclass(frozen=True, slots=True)
class BatchLine:
    """One input line: its request, or what is wrong with it; ``arrival_s`` from the start."""

    number: int
    request: Request | None
    arrival_s: float = 0.0
    error: str = ""


def read_lines(path: Path) -> tuple[str, list[BatchLine]]:
    """Return the file's digest and its lines; blank ones are left out.

    Raises BatchFailed where the file cannot be read. A line that is no request keeps its
    place, with the error.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BatchFailed(f"{path}: {error.strerror}") from None
    digest = hashlib.sha256(content).hexdigest()
    texts = content.decode("utf-8", errors="replace").splitlines()
    return digest, [
        _line(number, text, digest) for number, text in enumerate(texts) if text.strip()
    ]


def _line(number: int, text: str, digest: str) -> BatchLine:
    try:
        payload = json.loads(text)
        if not isinstance(payload, dict):
            raise InvalidRequest("request", "a line is a JSON object")
        arrival_s = payload.pop("arrival_s", 0.0)
        if isinstance(arrival_s, bool) or not isinstance(arrival_s, int | float) or arrival_s < 0:
            raise InvalidRequest("arrival_s", "must be a number of seconds, not negative")
        request = decode_request(request_from_json(payload))
    except InvalidRequest as error:
        return BatchLine(number, None, error=str(error))
    except json.JSONDecodeError as error:
        return BatchLine(number, None, error=f"not JSON: {error.msg} at column {error.colno}")
    if not request.idempotency_key:
        # The same line of the same file is the same job, however often the run is started.
        request = replace(request, idempotency_key=f"batch:{digest[:32]}:{number}")
    return BatchLine(number, request, float(arrival_s))


class Progress:
    """What has ended, kept in a file beside the output until all has."""

    def __init__(self, output: Path, digest: str) -> None:
        self._output = output
        self._path = output.with_name(output.name + ".partial")
        self.results: dict[int, Mapping[str, Any]] = {}
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            self._load(digest)
        except OSError as error:
            raise BatchFailed(f"{self._path}: {error.strerror}") from None

    def _load(self, digest: str) -> None:
        lines = self._path.read_text("utf-8").splitlines() if self._path.exists() else []
        same = bool(lines) and _loads(lines[0]).get("digest") == digest
        if same:
            entries = [_loads(line) for line in lines[1:]]
            # A line that was cut short by a kill is run again.
            self.results = {e["line"]: e["result"] for e in entries if "result" in e}
        self._file = self._path.open("w", encoding="utf-8")
        self._write({"digest": digest})
        for number, result in self.results.items():
            self._write({"line": number, "result": result})

    def add(self, number: int, result: Mapping[str, Any]) -> None:
        """Take note of one line's result; it survives this process."""
        self.results[number] = result
        self._write({"line": number, "result": result})

    def _write(self, value: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(value, ensure_ascii=False) + "\n")
        self._file.flush()

    def finish(self) -> None:
        """Write the output, in input order, all at once."""
        self._file.close()
        whole = self._output.with_name(self._output.name + ".whole")
        with whole.open("w", encoding="utf-8") as out:
            for _, result in sorted(self.results.items()):
                out.write(json.dumps(result, ensure_ascii=False) + "\n")
        whole.replace(self._output)
        self._path.unlink()

    def close(self) -> None:
        """Keep what there is, for another run to go on from."""
        self._file.close()


def _loads(line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except json.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}
