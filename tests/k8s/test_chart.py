"""The Helm chart gives the objects of the overlay, and what its values ask for instead."""

from __future__ import annotations

import copy
import functools
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.k8s.conftest import K8S, Render
from tests.k8s.kubectl import helm
from tests.k8s.objects import (
    CUSTOM_KINDS,
    REDIS,
    SCHEDULER,
    WORKER,
    Object,
    containers,
    of_kind,
    pod_labels,
    service_container,
    workload,
)
from tests.k8s.schemas import CUSTOM
from tests.k8s.test_manifests import OLDEST_KUBERNETES

CHART = K8S / "chart"
# Ten times as fast, where PyYAML was built with it: the dashboard is long.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
OPEN = {"access": {"enabled": False}, "settings": {"STEPSERVE_INSECURE": True}}
ROOMY = {"limits": {"memory": "64Gi"}}
MODELS = [
    {"name": "small", "id": "Qwen/Qwen3-0.6B"},
    {"name": "large", "id": "Qwen/Qwen3-4B", "maxReplicas": 4, "resources": ROOMY},
]


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([helm(), *command], capture_output=True, text=True, check=False)


def template(
    values: dict[str, Any], chart: Path = CHART, release: str = "stepserve", *more: str
) -> subprocess.CompletedProcess[str]:
    # JSON is YAML, and a string of it no file.
    given = [f"--set-json={name}={json.dumps(value)}" for name, value in values.items()]
    return run("template", release, chart, "--namespace=stepserve", *given, *more)


@functools.cache
def text_of(values: str, chart: Path) -> str:
    done = template(json.loads(values), chart)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rendered(values: dict[str, Any], chart: Path = CHART) -> list[Object]:
    text = text_of(json.dumps(values), chart)
    return [found for found in yaml.load_all(text, LOADER) if found]


def settings_of(objects: list[Object]) -> dict[str, str]:
    data: dict[str, str] = of_kind(objects, "ConfigMap")["stepserve-settings"]["data"]
    return data


def key(found: Object) -> tuple[str, str]:
    return found["kind"], found["metadata"]["name"]


def without_hashes(objects: list[Object]) -> list[Object]:
    """As kustomize gives them, but that ConfigMaps have their own names: Helm knows no hashes."""
    text = json.dumps(objects)
    for kind, name in map(key, objects):
        if kind == "ConfigMap" and (hashed := re.fullmatch(r"(.*)-[a-z0-9]{10}", name)):
            text = text.replace(f'"{name}"', f'"{hashed[1]}"')
    plain: list[Object] = json.loads(text)
    return plain


def without_helms(objects: list[Object]) -> list[Object]:
    """As the chart gives them, without what Helm and its users need there."""
    plain = copy.deepcopy(objects)
    for found in plain:
        labels = found["metadata"]["labels"]
        assert labels.pop("app.kubernetes.io/managed-by") == "Helm"
        assert labels.pop("helm.sh/chart").startswith("stepserve-")
        if found["kind"] == "PersistentVolumeClaim":
            assert found["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
        if "template" in found.get("spec", {}):
            [checksum] = found["spec"]["template"]["metadata"].pop("annotations")
            assert checksum in ("checksum/settings", "checksum/model")
    return plain


@pytest.mark.parametrize(
    ("variant", "values"), [("prod", {}), ("tls", {"redis": {"tls": True}})], ids=["prod", "tls"]
)
def test_it_gives_the_objects_of_the_overlay(
    render: Render, variant: str, values: dict[str, Any]
) -> None:
    wanted = {key(found): found for found in without_hashes(render(variant))}
    given = {key(found): found for found in without_helms(rendered(values))}
    assert given.keys() == wanted.keys()
    for each, found in given.items():
        assert found == wanted[each], each


def test_it_is_packed_with_all_that_it_gives(tmp_path: Path) -> None:
    assert run("package", CHART, "--destination", str(tmp_path)).returncode == 0
    [package] = tmp_path.glob("*.tgz")
    assert rendered({}, package) == rendered({})


def test_lint_has_nothing_to_say() -> None:
    done = run("lint", "--strict", CHART)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "values",
    [
        {"models": MODELS},
        {"worker": {"gpus": 0, "autoscaling": {"enabled": False}}, **OPEN},
    ],
    ids=["models", "plain"],
)
def test_what_it_gives_instead_is_valid(values: dict[str, Any]) -> None:
    for found in rendered(values):
        if found["kind"] in CUSTOM_KINDS:
            jsonschema.validate(found, CUSTOM[found["kind"]])
        else:
            kubernetes_validate.validate(found, OLDEST_KUBERNETES, strict=True)


def test_pods_are_rolled_when_a_setting_changes() -> None:
    def checksums(values: dict[str, Any]) -> dict[str, str]:
        found = rendered(values)
        pods = {
            name: workload(found, name)["spec"]["template"] for name in (SCHEDULER, WORKER, REDIS)
        }
        return {n: pod["metadata"]["annotations"]["checksum/settings"] for n, pod in pods.items()}

    before = checksums({})
    age, revision = {"STEPSERVE_MAX_CONNECTION_AGE_S": 1000000}, {"model": {"revision": "v2"}}
    for values in ({"settings": age}, revision):
        after = checksums(values)
        assert [before[name] != after[name] for name in before] == [True, True, False]
    told = settings_of(rendered({"settings": age}))
    assert told["STEPSERVE_MAX_CONNECTION_AGE_S"] == "1000000", "and not 1e+06"


def test_every_part_can_be_left_out() -> None:
    by_hand = {"autoscaling": {"enabled": False}, "replicas": 3}
    dark = {"serviceMonitors": False, "rules": False, "dashboard": False}
    found = rendered(
        {"scheduler": by_hand, "worker": {**by_hand, "gpus": 0}, "monitoring": dark,
         "networkPolicies": False, "redis": {"enabled": False},
         "model": {"download": {"enabled": False}, "revision": "v2"}, **OPEN}
    )  # fmt: skip
    assert {each["kind"] for each in found} == {
        "ConfigMap", "Deployment", "PodDisruptionBudget", "Service", "ServiceAccount",
    }  # fmt: skip
    assert of_kind(found, "ConfigMap").keys() == {"stepserve-settings"}
    assert [workload(found, name)["spec"]["replicas"] for name in (SCHEDULER, WORKER)] == [3, 3]
    settings = settings_of(found)
    assert (settings["STEPSERVE_MODEL"], settings["STEPSERVE_REVISION"]) == (
        "Qwen/Qwen3-0.6B",
        "v2",
    )
    assert settings["STEPSERVE_INSECURE"] == "true"
    assert not [name for name in settings if "TLS" in name or "FLEET" in name or "KEYS" in name]
    worker = workload(found, WORKER)
    assert "tolerations" not in worker["spec"]["template"]["spec"]
    assert "nvidia.com/gpu" not in service_container(worker)["resources"]["limits"]
    assert {"name": "STEPSERVE_DEVICE", "value": "cpu"} in service_container(worker)["env"]
    assert "secret" not in json.dumps(worker["spec"]["template"]["spec"]["volumes"])


def test_several_models_have_workers_of_their_own(render: Render) -> None:
    found, overlay = rendered({"models": MODELS}), render("models")
    assert settings_of(found)["STEPSERVE_MODEL"] == "Qwen/Qwen3-0.6B,Qwen/Qwen3-4B"
    names = [f"{WORKER}-small", f"{WORKER}-large"]
    deployments = of_kind(found, "Deployment")
    assert deployments.keys() == {SCHEDULER, *names}
    for name, model in zip(names, MODELS, strict=True):
        deployment = deployments[name]
        selector = deployment["spec"]["selector"]["matchLabels"]
        assert selector.items() <= pod_labels(deployment).items()
        assert selector["app.kubernetes.io/component"] == model["name"]
        variables = service_container(deployment)["env"]
        assert {"name": "STEPSERVE_MODEL", "value": model["id"]} in variables
    assert service_container(deployments[names[1]])["resources"]["limits"] == {
        "memory": "64Gi", "nvidia.com/gpu": "1",
    }  # fmt: skip
    for mine, theirs in ((names[0], WORKER), (names[1], names[1])):
        scale = of_kind(found, "ScaledObject")[mine]["spec"]
        wanted = of_kind(overlay, "ScaledObject")[theirs]["spec"]
        assert scale.pop("scaleTargetRef")["name"] == mine
        assert wanted.pop("scaleTargetRef")["name"] == theirs
        assert scale == wanted


def test_a_release_and_a_namespace_are_its_users() -> None:
    images = {"pullSecrets": ["mine"], "worker": {"repository": "r/w", "tag": "2"}}
    monitoring = {"namespace": "watch"}
    values = {"images": images, "monitoring": monitoring}
    done = template(values, CHART, "mine", "--namespace=elsewhere")
    found = [each for each in yaml.load_all(done.stdout, LOADER) if each]
    assert {each["metadata"]["namespace"] for each in found} == {"elsewhere"}
    worker = workload(found, WORKER)
    assert worker["spec"]["selector"]["matchLabels"]["app.kubernetes.io/instance"] == "mine"
    assert {each["image"] for each in containers(worker)} == {"r/w:2"}
    assert worker["spec"]["template"]["spec"]["imagePullSecrets"] == [{"name": "mine"}]
    [trigger] = of_kind(found, "ScaledObject")[WORKER]["spec"]["triggers"]
    assert trigger["metadata"]["query"].count('namespace="elsewhere"') == 2
    [prometheus] = of_kind(found, "NetworkPolicy")["stepserve-metrics"]["spec"]["ingress"]
    assert prometheus["from"][0]["namespaceSelector"]["matchLabels"] == {
        "kubernetes.io/metadata.name": "watch"
    }


def test_whatever_else_is_patched_as_kustomize_does() -> None:
    pod = {
        "nodeSelector": {"accelerator": "h100"},
        "terminationGracePeriodSeconds": None,
        "containers": [
            {"name": "worker", "env": [{"name": "OMP_WAIT_POLICY", "value": "PASSIVE"}]}
        ],
    }
    before = workload(rendered({}), WORKER)["spec"]["template"]["spec"]
    patch = {f"Deployment/{WORKER}": {"spec": {"template": {"spec": pod}}}}
    after = workload(rendered({"overrides": patch}), WORKER)["spec"]["template"]["spec"]
    assert after.pop("nodeSelector") == {"accelerator": "h100"}
    del before["terminationGracePeriodSeconds"]
    [container] = before["containers"]
    container["env"].insert(0, {"name": "OMP_WAIT_POLICY", "value": "PASSIVE"})
    assert after == before


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"worker": {"gpu": 1}}, "gpu"),
        ({"worker": {"gpus": "two"}}, "gpus"),
        ({"worker": {"autoscaling": {"maxReplicas": 0}}}, "maxReplicas"),
        ({"worker": {"autoscaling": {"prometheus": "prometheus:9090"}}}, "prometheus"),
        ({"settings": {"BLOCK_SIZE": 32}}, "BLOCK_SIZE"),
        ({"settings": {"STEPSERVE_BLOCK_SIZE": [32]}}, "STEPSERVE_BLOCK_SIZE"),
        ({"redis": {"storage": "20"}}, "storage"),
        ({"models": [{"id": "a/b"}]}, "name"),
        ({"models": [{"id": "a/b", "name": "A B"}]}, "name"),
        ({"model": {"name": "a/b"}}, "name"),
        ({"replicas": 3}, "replicas"),
        ({"overrides": {"worker": {}}}, "worker"),
        ({"access": {"enabled": False}}, "STEPSERVE_INSECURE"),
    ],
)
def test_what_is_wrong_is_refused(values: dict[str, Any], told: str) -> None:
    done = template(values)
    assert done.returncode != 0
    assert told in done.stderr.partition("Error:")[2]
