"""What the manifests hold, found in the objects that they give."""

from __future__ import annotations

from typing import Any

Object = dict[str, Any]

NAME = "app.kubernetes.io/name"
SCHEDULER, WORKER, REDIS = "stepserve-scheduler", "stepserve-worker", "stepserve-redis"
# Kinds that other projects define; the schemas are ours.
CUSTOM_KINDS = ("PrometheusRule", "ScaledObject", "ServiceMonitor")


def of_kind(objects: list[Object], kind: str) -> dict[str, Object]:
    """Return the objects of a kind by their names."""
    return {found["metadata"]["name"]: found for found in objects if found["kind"] == kind}


def generated(objects: list[Object], kind: str, name: str) -> Object:
    """Return the one whose name is ``name`` and a hash of its contents."""
    [found] = [v for key, v in of_kind(objects, kind).items() if key.rpartition("-")[0] == name]
    return found


def pod_spec(found: Object) -> Object | None:
    """Return the pod's specification where the object makes pods."""
    template = found.get("spec", {}).get("template")
    return None if template is None else template["spec"]


def pod_labels(workload: Object) -> dict[str, str]:
    labels: dict[str, str] = workload["spec"]["template"]["metadata"]["labels"]
    return labels


def workloads(objects: list[Object]) -> list[Object]:
    """Return what makes pods, by name."""
    return sorted(filter(pod_spec, objects), key=lambda item: str(item["metadata"]["name"]))


def workload(objects: list[Object], name: str) -> Object:
    [found] = [each for each in workloads(objects) if each["metadata"]["name"] == name]
    return found


def containers(found: Object) -> list[Object]:
    pod = pod_spec(found) or {}
    return [*pod.get("initContainers", []), *pod.get("containers", [])]


def service_container(found: Object) -> Object:
    """Return the one container that goes on running."""
    [container] = (pod_spec(found) or {})["containers"]
    assert isinstance(container, dict)
    return container


def settings_of(objects: list[Object]) -> dict[str, str]:
    """Return the variables that schedulers and workers get from their ConfigMap."""
    data: dict[str, str] = generated(objects, "ConfigMap", "stepserve-settings")["data"]
    return data
