"""Rendering, as ``kubectl apply -k`` does it before it applies anything."""

from __future__ import annotations

import copy
import functools
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.k8s.kubectl import kubectl
from tests.k8s.objects import Object


@pytest.fixture(scope="session")
def render() -> Callable[[Path], list[Object]]:
    """Return what gives a kustomization's objects; each is rendered once."""
    program = kubectl()

    @functools.cache
    def rendered(directory: Path) -> list[Object]:
        command = [program, "kustomize", directory]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return list(yaml.safe_load_all(done.stdout))

    return lambda directory: copy.deepcopy(rendered(directory))
