"""Compile what the launchers launch, for a GPU that is not there, and read what it needs.

``launches`` records a launcher's kernels with their arguments in place of running them;
``compile_launch`` compiles one for a compute capability as the launch on a GPU would: the same
types, the same constants, the same facts about divisibility by 16.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
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

from worker_svc.kernels.kernel import Kernel

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

    kernel: Kernel
    arguments: tuple[Any, ...]
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

    def record(kernel: Kernel, _grid: tuple[int, ...]) -> Callable[..., None]:
        return lambda *arguments, **options: collected.append(Launch(kernel, arguments, options))

    with patch.object(Kernel, "__getitem__", record):
        yield collected


def compile_launch(launch: Launch, capability: int) -> Usage:
    """Compile for sm_80 or sm_90 and ask cuobjdump for registers, stack and shared memory."""
    jit = launch.kernel.jit
    compiled = triton.compile(
        ASTSource(jit, *specialisation(launch)),
        target=GPUTarget("cuda", capability, 32),
        options=launch.options,
    )
    registers, stack_bytes = _resources(compiled.asm["cubin"])
    return Usage(
        name=jit.__name__.strip("_").removesuffix("_kernel"),
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
    parameters = launch.kernel.jit.params
    for i, (parameter, argument) in enumerate(zip(parameters, launch.arguments, strict=True)):
        if parameter.is_constexpr:
            signature[parameter.name] = "constexpr"
            constants[(i,)] = argument
        elif parameter.do_not_specialize:
            signature[parameter.name] = "i32"
        else:
            signature[parameter.name] = _specialise(argument, (i,), constants, attributes)
    return signature, constants, attributes


def _specialise(
    argument: Any, path: tuple[int, ...], constants: dict[Any, Any], attributes: dict[Any, Any]
) -> Any:
    """A type as Triton's launch would choose it; 1 becomes a constant."""
    if isinstance(argument, tuple):
        parts = [
            _specialise(part, (*path, i), constants, attributes) for i, part in enumerate(argument)
        ]
        return type(argument)(*parts) if hasattr(argument, "_fields") else tuple(parts)
    if isinstance(argument, torch.Tensor):
        if argument.data_ptr() % 16 == 0:
            attributes[path] = [["tt.divisibility", 16]]
        return "*" + TYPES[argument.dtype]
    if isinstance(argument, float):
        return "fp32"
    assert isinstance(argument, int)
    if argument == 1:
        constants[path] = 1
        return "constexpr"
    if argument % 16 == 0:
        attributes[path] = [["tt.divisibility", 16]]
    return "i32"


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
