"""Render a kustomization: just what ours use, and an error for anything else."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]

CLUSTER_SCOPED = {"Namespace", "ClusterRole", "ClusterRoleBinding", "PersistentVolume"}


class UnknownField(ValueError):
    """The kustomization uses something that this loader does not implement."""


def render(directory: Path) -> list[Object]:
    """Return the objects that ``kubectl apply -k`` would apply, in the files' order."""
    kustomization = yaml.safe_load((directory / "kustomization.yaml").read_text())
    known: dict[str, Callable[[list[Object], Any], None]] = {
        "apiVersion": _expect("kustomize.config.k8s.io/v1beta1"),
        "kind": _expect("Kustomization"),
        "resources": lambda objects, paths: _add_resources(objects, directory, paths),
        "patches": lambda objects, patches: _apply_patches(objects, directory, patches),
        "namespace": _set_namespace,
        "images": _set_images,
    }
    if unknown := kustomization.keys() - known:
        raise UnknownField(f"{directory}: {sorted(unknown)}")
    objects: list[Object] = []
    for field, apply in known.items():
        if field in kustomization:
            apply(objects, kustomization[field])
    return objects


def _add_resources(objects: list[Object], directory: Path, paths: list[str]) -> None:
    for path in paths:
        objects.extend(_load(directory / path))


def _load(path: Path) -> list[Object]:
    if path.is_dir():
        return render(path)
    return list(yaml.safe_load_all(path.read_text()))


def _expect(value: str) -> Callable[[list[Object], Any], None]:
    def check(_: list[Object], found: Any) -> None:
        if found != value:
            raise UnknownField(f"{found!r} where {value!r} was expected")

    return check


def _apply_patches(objects: list[Object], directory: Path, patches: list[Object]) -> None:
    for patch in patches:
        if patch.keys() != {"path"}:
            raise UnknownField(f"patch {patch}")
        for change in _load(directory / patch["path"]):
            (index,) = [
                i for i, found in enumerate(objects) if _identity(found) == _identity(change)
            ]
            objects[index] = _merge(objects[index], change)


def _identity(found: Object) -> tuple[str, str, str]:
    return found["apiVersion"], found["kind"], found["metadata"]["name"]


def _merge(base: Any, change: Any) -> Any:
    """Merge maps by key (null removes), lists of named maps by name; replace the rest."""
    if isinstance(base, dict) and isinstance(change, dict):
        merged = copy.deepcopy(base)
        for key, value in change.items():
            if key.startswith("$"):
                raise UnknownField(key)
            if value is None:
                merged.pop(key, None)
            else:
                merged[key] = _merge(merged.get(key), value)
        return merged
    if _are_named(base) and _are_named(change):
        changes = {item["name"]: item for item in change}
        if added := changes.keys() - {item["name"] for item in base}:
            # Where in the list a new item goes differs from field to field.
            raise UnknownField(f"a patch adds {sorted(added)}")
        return [_merge(item, changes.get(item["name"], {})) for item in base]
    return copy.deepcopy(change)


def _are_named(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, dict) and "name" in v for v in value)


def _set_namespace(objects: list[Object], namespace: str) -> None:
    for found in objects:
        if found["kind"] == "Namespace":
            found["metadata"]["name"] = namespace
        elif found["kind"] not in CLUSTER_SCOPED:
            found["metadata"]["namespace"] = namespace


def _set_images(objects: list[Object], images: list[Object]) -> None:
    for image in images:
        if unknown := image.keys() - {"name", "newName", "newTag"}:
            raise UnknownField(f"image {sorted(unknown)}")
        for container in (c for found in objects for c in containers(found)):
            name, _, tag = container["image"].partition(":")
            if name == image["name"]:
                container["image"] = f"{image.get('newName', name)}:{image.get('newTag', tag)}"


def pod_spec(found: Object) -> Object | None:
    """Return the pod's specification where the object makes pods."""
    template = found.get("spec", {}).get("template")
    return None if template is None else template["spec"]


def containers(found: Object) -> list[Object]:
    pod = pod_spec(found) or {}
    return [*pod.get("initContainers", []), *pod.get("containers", [])]
