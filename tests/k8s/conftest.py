"""Rendering, as ``kubectl apply -k`` does it before it applies anything."""

from __future__ import annotations

import copy
import functools
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.k8s.kubectl import kubectl
from tests.k8s.objects import Object

K8S = Path(__file__).resolve().parents[2] / "k8s"
VARIANTS = {
    "dev": K8S / "overlays/dev",
    "prod": K8S / "overlays/prod",
    "stages": K8S / "overlays/stages",
    "models": K8S / "overlays/models",
}
# An overlay of a user's own: prod, and Redis behind TLS.
TLS = """
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [{prod}]
components: [{tls}]
"""

Render = Callable[[str], list[Object]]


@pytest.fixture(scope="session")
def render(tmp_path_factory: pytest.TempPathFactory) -> Render:
    """Return what gives a variant's objects by its name; each is rendered once."""
    program = kubectl()
    own = tmp_path_factory.mktemp("overlay")
    paths = {
        name: os.path.relpath(K8S / path, own)
        for name, path in (("prod", "overlays/prod"), ("tls", "components/redis-tls"))
    }
    (own / "kustomization.yaml").write_text(TLS.format(**paths))
    directories = VARIANTS | {"tls": own}

    @functools.cache
    def rendered(variant: str) -> list[Object]:
        command = [program, "kustomize", directories[variant]]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return list(yaml.safe_load_all(done.stdout))

    return lambda variant: copy.deepcopy(rendered(variant))


@pytest.fixture(params=["dev", "prod", "tls"])
def objects(request: pytest.FixtureRequest, render: Render) -> list[Object]:
    """Return the objects of each variant in turn; the base is in all of them."""
    return render(request.param)
