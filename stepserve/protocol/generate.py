"""Regenerate the code of the two protos: ``python -m stepserve.protocol.generate [--check]``."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parents[2]
PROTOS = ("stepserve/v1/inference.proto", "stepserve/v1/worker.proto")
OUTPUTS = tuple(
    proto.removesuffix(".proto") + suffix
    for proto in PROTOS
    for suffix in ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py")
)


def generate(out: Path) -> None:
    """Write the generated modules below ``out``. Raises RuntimeError where protoc refuses."""
    options = [f"--{kind}_out={out}" for kind in ("python", "pyi", "grpc_python")]
    # Where google's own messages are that ours have in them.
    google = Path(grpc_tools.__file__).parent / "_proto"
    if protoc.main(["protoc", f"-I{ROOT / 'protos'}", f"-I{google}", *options, *PROTOS]) != 0:
        raise RuntimeError("protoc failed; its message is above")


def stale_outputs() -> list[str]:
    """Return the committed generated files that differ from what the protos give now."""
    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch))
        return [
            name
            for name in OUTPUTS
            if not (ROOT / name).exists()
            or (Path(scratch) / name).read_bytes() != (ROOT / name).read_bytes()
        ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="stepserve.protocol.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say which files are stale")
    if not parser.parse_args().check:
        generate(ROOT)
        return 0
    stale = stale_outputs()
    print("\n".join(f"stale: {name} (run make protos)" for name in stale) or "protos are current")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
