"""Who scales what, by what, and what is left of it in a disruption."""

from __future__ import annotations

from typing import Any

from tests.k8s.conftest import Render
from tests.k8s.objects import (
    SCHEDULER,
    WORKER,
    Object,
    of_kind,
    pod_labels,
    settings_of,
    workload,
)


def budget(objects: list[Object], name: str) -> dict[str, Any]:
    found = of_kind(objects, "PodDisruptionBudget")[name]["spec"]
    assert found["selector"]["matchLabels"].items() <= pod_labels(workload(objects, name)).items()
    assert isinstance(found, dict)
    return found


def test_disruptions_leave_a_scheduler(objects: list[Object]) -> None:
    scaler = of_kind(objects, "HorizontalPodAutoscaler").get(SCHEDULER)
    found = workload(objects, SCHEDULER)["spec"]
    replicas = found["replicas"] if scaler is None else scaler["spec"]["minReplicas"]
    assert 0 < budget(objects, SCHEDULER)["minAvailable"] < replicas
    assert budget(objects, WORKER)["maxUnavailable"] == 1


def test_who_is_scaled_has_no_number_of_its_own(render: Render) -> None:
    """To apply the manifests again would undo what was scaled."""
    objects = render("prod")
    scalers = (
        of_kind(objects, "HorizontalPodAutoscaler")[SCHEDULER],
        of_kind(objects, "ScaledObject")[WORKER],
    )
    for scaler in scalers:
        target = scaler["spec"]["scaleTargetRef"]
        found = workload(objects, target["name"])
        assert (target["apiVersion"], target["kind"]) == (found["apiVersion"], found["kind"])
        assert "replicas" not in found["spec"]


def test_workers_follow_the_backlog_from_zero(render: Render) -> None:
    objects = render("prod")
    spec = of_kind(objects, "ScaledObject")[WORKER]["spec"]
    assert spec["minReplicaCount"] == 0 < spec["maxReplicaCount"]
    [trigger] = spec["triggers"]
    metadata = trigger["metadata"]
    assert float(metadata["activationThreshold"]) == 0, "one job starts a worker"
    assert metadata["threshold"] == settings_of(objects)["STEPSERVE_MAX_BATCH_SIZE"]
    assert "stepserve:queue_depth" in metadata["query"]
    # Without the jobs that run, a worker would go while it works.
    assert "stepserve:claimed_jobs" in metadata["query"]
    assert spec["fallback"]["behavior"] == "currentReplicasIfHigher"
    namespaces = {found["metadata"]["namespace"] for found in objects}
    assert namespaces == {"stepserve"}
    assert metadata["query"].count('namespace="stepserve"') == 2


def test_nothing_is_scaled_down_in_a_hurry(render: Render) -> None:
    objects = render("prod")
    scaled = of_kind(objects, "ScaledObject")[WORKER]["spec"]
    by_cpu = of_kind(objects, "HorizontalPodAutoscaler")[SCHEDULER]["spec"]
    advanced = scaled["advanced"]["horizontalPodAutoscalerConfig"]
    for behavior in (by_cpu["behavior"], advanced["behavior"]):
        assert behavior["scaleDown"]["stabilizationWindowSeconds"] >= 300
        [policy] = behavior["scaleDown"]["policies"]
        assert (policy["type"], policy["value"]) == ("Pods", 1)
