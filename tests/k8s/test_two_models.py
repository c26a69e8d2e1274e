"""Two models behind one service: whose workers are whose, and what each is scaled by."""

from __future__ import annotations

import json

import jsonschema
import kubernetes_validate
import pytest

from scheduler_svc.settings import SchedulerSettings
from stepserve.cli import parse
from stepserve.modelfiles.sources import ModelSource, model_sources
from tests.k8s.conftest import Render
from tests.k8s.objects import (
    CUSTOM_KINDS,
    SCHEDULER,
    WORKER,
    Object,
    of_kind,
    pod_labels,
    service_container,
    settings_of,
    workload,
    workloads,
)
from tests.k8s.schemas import CUSTOM
from tests.k8s.test_manifests import OLDEST_KUBERNETES, check_restricted
from worker_svc.settings import WorkerSettings

LARGE = f"{WORKER}-large"


@pytest.fixture
def objects(render: Render) -> list[Object]:
    return render("models")


def parsed(
    objects: list[Object], name: str, monkeypatch: pytest.MonkeyPatch
) -> tuple[ModelSource, ...]:
    """The models of a workload, as the real command reads its arguments and variables."""
    container = service_container(workload(objects, name))
    own = {each["name"]: each["value"] for each in container["env"] if "value" in each}
    with monkeypatch.context() as context:
        for key, value in (settings_of(objects) | own).items():
            context.setenv(key, value)
        settings = parse(container["args"])
    if isinstance(settings, WorkerSettings):
        return model_sources([settings.model], settings.model_name)
    assert isinstance(settings, SchedulerSettings)
    assert settings.workers == f"{WORKER}:50061"
    return settings.sources


def test_schemas_and_pods(objects: list[Object]) -> None:
    for found in objects:
        if found["kind"] in CUSTOM_KINDS:
            jsonschema.validate(found, CUSTOM[found["kind"]])
        else:
            kubernetes_validate.validate(found, OLDEST_KUBERNETES, strict=True)
    for found in workloads(objects):
        check_restricted(found)


def test_no_deployment_counts_the_others_pods(objects: list[Object]) -> None:
    service = of_kind(objects, "Service")[WORKER]["spec"]["selector"]
    for name, other in ((WORKER, LARGE), (LARGE, WORKER)):
        selected = workload(objects, name)["spec"]["selector"]["matchLabels"]
        assert selected.items() <= pod_labels(workload(objects, name)).items()
        assert not selected.items() <= pod_labels(workload(objects, other)).items()
        # One name finds both.
        assert service.items() <= pod_labels(workload(objects, name)).items()


def test_schedulers_serve_what_workers_hold(
    objects: list[Object], monkeypatch: pytest.MonkeyPatch
) -> None:
    of_workers = [parsed(objects, name, monkeypatch) for name in (WORKER, LARGE)]
    assert parsed(objects, SCHEDULER, monkeypatch) == tuple(model for [model] in of_workers)


def test_each_models_workers_follow_its_own_jobs(
    objects: list[Object], monkeypatch: pytest.MonkeyPatch
) -> None:
    scalers = of_kind(objects, "ScaledObject")
    for name in (WORKER, LARGE):
        spec = scalers[name]["spec"]
        assert spec["scaleTargetRef"]["name"] == name
        assert "replicas" not in workload(objects, name)["spec"]
        [model] = parsed(objects, name, monkeypatch)
        [trigger] = spec["triggers"]
        query = trigger["metadata"]["query"]
        assert query.count(f"model_name={json.dumps(model.name)}") == query.count("max(") == 2
