"""What the manifests hold, found in the objects that they give."""

from __future__ import annotations

from typing import Any

Object = dict[str, Any]


def of_kind(objects: list[Object], kind: str) -> dict[str, Object]:
    """Return the objects of a kind by their names."""
    return {found["metadata"]["name"]: found for found in objects if found["kind"] == kind}


def pod_spec(found: Object) -> Object | None:
    """Return the pod's specification where the object makes pods."""
    template = found.get("spec", {}).get("template")
    return None if template is None else template["spec"]


def containers(found: Object) -> list[Object]:
    pod = pod_spec(found) or {}
    return [*pod.get("initContainers", []), *pod.get("containers", [])]
