"""What a container gets besides its image: variables, and volumes with files or empty."""

from __future__ import annotations

import base64
import os
from pathlib import Path

from tests.k8s.objects import Object, of_kind


def environment(objects: list[Object], container: Object) -> dict[str, str]:
    """Return a container's variables: of its ConfigMaps, then its own."""
    found: dict[str, str] = {}
    for source in container.get("envFrom", []):
        found |= _config_map(objects, source["configMapRef"]["name"])
    for each in container.get("env", []):
        if "value" in each:
            found[each["name"]] = each["value"]
            continue
        reference = each["valueFrom"]["secretKeyRef"]
        if not reference.get("optional") or reference["name"] in of_kind(objects, "Secret"):
            found[each["name"]] = _secret(objects, reference["name"])[reference["key"]]
    return found


def volumes(objects: list[Object], spec: Object, directory: Path) -> dict[str, Path]:
    """Make a pod's volumes with what they hold, and return where, by their names.

    Its group may write to those that are empty, as a kubelet has it.
    """
    mounted = [each["name"] for each in spec["containers"][0].get("volumeMounts", [])]
    known = {each["name"]: each for each in spec.get("volumes", [])}
    found = {name: directory / name for name in mounted}
    for name, place in found.items():
        place.mkdir()
        for file, text in _files(objects, known.get(name, {})).items():
            (place / file).write_text(text)
            (place / file).chmod(0o444)
        os.chown(place, 0, spec["securityContext"].get("fsGroup", 0))
        place.chmod(0o2777)
    return found


def _files(objects: list[Object], volume: Object) -> dict[str, str]:
    """Return a volume's files; it is empty where it is neither of a ConfigMap nor of a Secret."""
    if "configMap" in volume:
        return _config_map(objects, volume["configMap"]["name"])
    if "secret" in volume:
        data = _secret(objects, volume["secret"]["secretName"])
        return {each["path"]: data[each["key"]] for each in volume["secret"]["items"]}
    return {}


def _config_map(objects: list[Object], name: str) -> dict[str, str]:
    data: dict[str, str] = of_kind(objects, "ConfigMap")[name]["data"]
    return data


def _secret(objects: list[Object], name: str) -> dict[str, str]:
    data: dict[str, str] = of_kind(objects, "Secret")[name]["data"]
    return {key: base64.b64decode(value).decode() for key, value in data.items()}
