"""What the protos promise, as text: run ``python -m tests.house.protos`` where something is new.

buf's rules, without buf: what a client built against an earlier v1 relies on stays as it was.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc_tools
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)
from grpc_tools import protoc

from tests.house.sources import ROOT

PROMISED = Path(__file__).with_name("v1.json")
INFERENCE = "stepserve/v1/inference.proto"

_SNAKE = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_PASCAL = re.compile(r"([A-Z][a-z0-9]*)+")


def described(protos: Path = ROOT / "protos", *names: str) -> list[FileDescriptorProto]:
    """Return the files' descriptors, comments left out. Raises RuntimeError where protoc does."""
    google = Path(grpc_tools.__file__).parent / "_proto"
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "set"
        options = [f"-I{protos}", f"-I{google}", f"--descriptor_set_out={out}"]
        if protoc.main(["protoc", *options, *(names or (INFERENCE,))]) != 0:
            raise RuntimeError("protoc failed; its message is above")
        return list(FileDescriptorSet.FromString(out.read_bytes()).file)


def promises(file: FileDescriptorProto) -> dict[str, str]:
    """Return what of a file a client relies on: by place, what stands there."""
    found = {"package": file.package}
    for service in file.service:
        for method in service.method:
            asked = ("stream " if method.client_streaming else "") + method.input_type
            answered = ("stream " if method.server_streaming else "") + method.output_type
            found[f"{service.name}.{method.name}"] = f"{asked} -> {answered}"
    for message in file.message_type:
        found.update(_fields(message, message.name))
    for enum in file.enum_type:
        found.update({f"{enum.name} = {value.number}": value.name for value in enum.value})
    return found


def _fields(message: DescriptorProto, path: str) -> Iterator[tuple[str, str]]:
    yield path, "message"
    for field in message.field:
        label = FieldDescriptorProto.Label.Name(field.label).removeprefix("LABEL_").lower()
        kind = FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
        of = message.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else ""
        words = (label, kind, field.type_name, field.name, f"in {of}" if of else "")
        yield f"{path} = {field.number}", " ".join(filter(None, words))
    for nested in message.nested_type:
        yield from _fields(nested, f"{path}.{nested.name}")


def broken(promised: dict[str, str], found: dict[str, str]) -> list[str]:
    """Return what was promised and is not there, or is another thing."""
    return [
        f"{place}: was {what!r}, is {found.get(place, 'gone')!r}"
        for place, what in promised.items()
        if found.get(place) != what
    ]


def unusual(file: FileDescriptorProto) -> list[str]:
    """Return what is named otherwise than buf's standard rules have it."""
    folder, _, _ = file.name.rpartition("/")
    told = [] if file.package == folder.replace("/", ".") else [f"{file.package} in {folder}"]
    for message in file.message_type:
        told += [name for name in [message.name] if not _PASCAL.fullmatch(name)]
        told += [field.name for field in message.field if not _SNAKE.fullmatch(field.name)]
    for service in file.service:
        told += [m.name for m in service.method if not _PASCAL.fullmatch(m.name)]
    return told + [name for enum in file.enum_type for name in _unusual_values(enum)]


def _unusual_values(enum: EnumDescriptorProto) -> list[str]:
    prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", enum.name).upper() + "_"
    zero = next(value.name for value in enum.value if value.number == 0)
    wrong = [value.name for value in enum.value if not value.name.startswith(prefix)]
    return wrong + ([] if zero == f"{prefix}UNSPECIFIED" else [zero])


def promised() -> dict[str, str]:
    content: dict[str, Any] = json.loads(PROMISED.read_text())
    return content


if __name__ == "__main__":
    [_file] = described()
    if problems := broken(promised() if PROMISED.exists() else {}, promises(_file)):
        raise SystemExit("\n".join(["v1 promises:", *problems]))
    PROMISED.write_text(json.dumps(promises(_file), indent=2) + "\n")
