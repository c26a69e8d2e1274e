"""A worker of several pods: a LeaderWorkerSet to its CRD, whose pods know their place."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest

from stepserve.cli import parse
from tests.k8s.objects import Object, of_kind
from tests.k8s.test_manifests import NAME, OLDEST_KUBERNETES, ROOT, check_restricted
from worker_svc.group.place import Machine, is_group, machine_of, places
from worker_svc.settings import WorkerSettings

OVERLAY = ROOT / "k8s/overlays/stages"
CRD = json.loads((Path(__file__).parent / "schemas/leaderworkerset.json").read_text())
TEMPLATES = ("leaderTemplate", "workerTemplate")


@pytest.fixture
def objects(render: Callable[[Path], list[Object]]) -> list[Object]:
    return render(OVERLAY)


@pytest.fixture
def workers(objects: list[Object]) -> Object:
    return of_kind(objects, "LeaderWorkerSet")["stepserve-worker"]


def strict(schema: Any) -> Any:
    """The schema with every field that it does not name refused, as ``kubectl`` warns of them."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: strict(value) for key, value in schema.items()}
    if isinstance(found.get("properties"), dict) and found.get("type") == "object":
        found.setdefault("additionalProperties", False)
    return found


def check_schema(workers: Object) -> None:
    """Raise ValidationError where it is no LeaderWorkerSet."""
    schema = strict(CRD["schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    jsonschema.validate(workers, schema)


def pods(workers: Object) -> dict[str, Object]:
    """Each template as the Deployment that would make the same pods."""
    template = workers["spec"]["leaderWorkerTemplate"]
    return {
        name: {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name.lower()},
            "spec": {
                "selector": {"matchLabels": template[name]["metadata"]["labels"]},
                "template": template[name],
            },
        }
        for name in TEMPLATES
    }


def test_it_is_one_to_its_crd(workers: Object) -> None:
    check_schema(workers)
    assert workers["apiVersion"] == f"{CRD['group']}/{CRD['version']}"
    for path, value in (("size", "two"), ("restartPolicy", "Sometimes"), ("sizes", 2)):
        wrong = copy.deepcopy(workers)
        wrong["spec"]["leaderWorkerTemplate"][path] = value
        with pytest.raises(jsonschema.ValidationError):
            check_schema(wrong)


@pytest.mark.parametrize("version", [OLDEST_KUBERNETES, kubernetes_validate.latest_version()])
def test_everything_else_is_kubernetes_own(
    objects: list[Object], workers: Object, version: str
) -> None:
    for found in objects:
        if found is not workers:
            kubernetes_validate.validate(found, version, strict=True)
    for found in pods(workers).values():
        kubernetes_validate.validate(found, version, strict=True)
        check_restricted(found)
    assert "stepserve-worker" not in of_kind(objects, "Deployment")


def test_each_pod_knows_its_place(
    objects: list[Object], workers: Object, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in of_kind(objects, "ConfigMap")["stepserve-settings"]["data"].items():
        monkeypatch.setenv(name, value)
    size = workers["spec"]["leaderWorkerTemplate"]["size"]
    ranks = []
    for index, name in enumerate(TEMPLATES):
        [container] = pods(workers)[name]["spec"]["template"]["spec"]["containers"]
        settings = parse(container["args"])
        assert isinstance(settings, WorkerSettings)
        assert is_group(settings)
        variables = {
            "LWS_LEADER_ADDRESS": "stepserve-worker-0.stepserve-worker.stepserve",
            "LWS_GROUP_SIZE": str(size),
            "LWS_WORKER_INDEX": str(index),
        }
        machine = machine_of(settings, variables)
        assert isinstance(machine, Machine)
        here = places(settings, machine)
        assert container["resources"]["limits"]["nvidia.com/gpu"] == str(len(here))
        ranks += [place.rank for place in here]
    assert ranks == list(range(size)), "one pod for each further rank"


def test_leaders_serve_and_all_ranks_reach_each_other(
    objects: list[Object], workers: Object
) -> None:
    template = workers["spec"]["leaderWorkerTemplate"]
    labels = {name: template[name]["metadata"]["labels"] for name in TEMPLATES}
    selector = of_kind(objects, "Service")["stepserve-worker"]["spec"]["selector"]
    assert [selector.items() <= labels[name].items() for name in TEMPLATES] == [True, False]
    policies = of_kind(objects, "NetworkPolicy")
    ranks = policies["stepserve-worker-ranks"]["spec"]
    selected = ranks["podSelector"]["matchLabels"]
    assert all(selected.items() <= labels[name].items() for name in TEMPLATES)
    assert ranks["ingress"] == [{"from": [{"podSelector": {"matchLabels": selected}}]}]
    served = policies["stepserve-worker"]["spec"]["podSelector"]["matchLabels"]
    assert served == {NAME: labels["leaderTemplate"][NAME]}
