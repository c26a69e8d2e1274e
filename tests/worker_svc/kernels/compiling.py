"""Compile what the launchers launch, for a GPU that is not there, and read what it needs.

``launches`` records a launcher's kernels with their arguments instead of running them;
``compile_launch`` compiles one for a compute capability as the launch on a GPU would: the same
types, the same constants, the same facts about divisibility by 16.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any
from unittest.mock import patch

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia import compiler as nvidia
from triton.compiler import ASTSource
from triton.runtime import JITFunction

TYPES = {
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float32: "fp32",
    torch.float64: "fp64",
    torch.int32: "i32",
    torch.int64: "i64",
}
SHARED_LIMIT_BYTES = {80: 163 * 1024, 90: 227 * 1024}


@dataclass(frozen=True)
class Launch:
    """A kernel with the arguments and options of one launch."""

    kernel: JITFunction
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    options: dict[str, Any]


@dataclass(frozen=True)
class Usage:
    """What a compiled kernel takes of a GPU."""

    name: str
    capability: int
    registers: int
    spilled_bytes: int
    shared_bytes: int


@contextmanager
def launches() -> Iterator[list[Launch]]:
    """Collect the launches of the block; nothing runs."""
    collected: list[Launch] = []

    def record(
        kernel: JITFunction, *arguments: Any, grid: tuple[int, ...], warmup: bool, **named: Any
    ) -> None:
        assert not warmup
        options = {name: named.pop(name) for name in list(named) if name not in kernel.arg_names}
        bound = kernel.signature.bind(*arguments, **named)
        collected.append(Launch(kernel, grid, bound.arguments, options))

    with patch.object(JITFunction, "run", record):
        yield collected


def compile_launch(launch: Launch, capability: int) -> Usage:
    """Compile for sm_80 or sm_90 and ask cuobjdump for registers, stack and shared memory."""
    compiled = triton.compile(
        ASTSource(launch.kernel, *specialisation(launch)),
        target=GPUTarget("cuda", capability, 32),
        options=launch.options,
    )
    registers, stack_bytes = _resources(compiled.asm["cubin"])
    return Usage(
        name=launch.kernel.__name__.strip("_").removesuffix("_kernel"),
        capability=capability,
        registers=registers,
        spilled_bytes=stack_bytes,
        shared_bytes=compiled.metadata.shared,
    )


def specialisation(launch: Launch) -> tuple[dict[str, Any], dict[Any, Any], dict[Any, Any]]:
    """(signature, constants, attributes): Triton compiles once for each that is different."""
    constants: dict[tuple[int, ...], Any] = {}
    attributes: dict[tuple[int, ...], Any] = {}
    signature = {}
    for i, parameter in enumerate(launch.kernel.params):
        argument = launch.arguments[parameter.name]
        is_special = not parameter.do_not_specialize
        if parameter.is_constexpr or (is_special and isinstance(argument, int) and argument == 1):
            signature[parameter.name] = "constexpr"
            constants[(i,)] = argument
            continue
        signature[parameter.name] = _type_of(argument)
        if is_special and not parameter.do_not_specialize_on_alignment and _is_aligned(argument):
            attributes[(i,)] = [["tt.divisibility", 16]]
    return signature, constants, attributes


def _type_of(argument: Any) -> str:
    if isinstance(argument, torch.Tensor):
        return "*" + TYPES[argument.dtype]
    if isinstance(argument, float):
        return "fp32"
    assert isinstance(argument, int)
    return "i32"


def _is_aligned(argument: Any) -> bool:
    if isinstance(argument, torch.Tensor):
        return argument.data_ptr() % 16 == 0
    return isinstance(argument, int) and argument % 16 == 0


def _resources(cubin: bytes) -> tuple[int, int]:
    """(registers a thread, bytes of stack and local memory: spills are there)."""
    cuobjdump = Path(nvidia.__file__).parent / "bin" / "cuobjdump"
    with NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        listing = subprocess.run(
            [cuobjdump, "-res-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", listing)
    assert found, listing
    return int(found[1]), int(found[2]) + int(found[3])
