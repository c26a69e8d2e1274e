"""A container of a pod as a runtime takes it: the OCI's configuration, as a kubelet makes it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.k8s.images.seccomp import default_profile
from tests.k8s.objects import Object

# What a runtime gives where nothing is dropped.
CAPABILITIES = [f"CAP_{name}" for name in ("CHOWN", "KILL", "NET_BIND_SERVICE", "SETGID", "SETUID")]
CPU_PERIOD_US = 100_000
SYSTEM_MOUNTS = [
    ("proc", "proc", "proc", []),
    ("dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
    (
        "dev/pts",
        "devpts",
        "devpts",
        ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=620"],
    ),
    ("dev/shm", "tmpfs", "shm", ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
    ("sys", "sysfs", "sysfs", ["nosuid", "noexec", "nodev", "ro"]),
]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a container runs: its root, its network, its host name, what its volumes hold."""

    root: Path
    network: Path
    host_name: str
    hosts: Path
    # Directories of this machine, by the names of volumes.
    volumes: dict[str, Path]


def configuration(
    pod: Object, image: dict[str, Any], variables: dict[str, str], place: Place
) -> dict[str, Any]:
    """Return the configuration of the pod's one container.

    Args:
        pod: its specification; what it says of security is held to the letter.
        image: what the image says of how it is run.
        variables: what the container adds to the image's environment.
        place: where it runs.
    """
    [container] = pod["containers"]
    security = pod["securityContext"] | container["securityContext"]
    return {
        "ociVersion": "1.0.2",
        "root": {"path": str(place.root), "readonly": security["readOnlyRootFilesystem"]},
        "hostname": place.host_name,
        "process": _process(container, security, image, variables),
        "mounts": [*_system_mounts(place), *_volume_mounts(container, place)],
        "linux": {
            "namespaces": [
                *({"type": kind} for kind in ("pid", "ipc", "uts", "mount")),
                {"type": "network", "path": str(place.network)},
            ],
            "resources": _resources(container.get("resources", {}).get("limits", {})),
            "seccomp": _seccomp(security),
        },
    }


def _process(
    container: Object, security: Object, image: dict[str, Any], variables: dict[str, str]
) -> dict[str, Any]:
    user, group = _user(security, image)
    assert user != 0 or not security.get("runAsNonRoot"), "it would not be started"
    capabilities = [] if security["capabilities"]["drop"] == ["ALL"] else CAPABILITIES
    own = dict(each.split("=", 1) for each in image.get("Env") or [])
    command = container.get("command") or image.get("Entrypoint") or []
    arguments = container.get("args") or ([] if "command" in container else image.get("Cmd") or [])
    return {
        "terminal": False,
        "user": {"uid": user, "gid": group, "additionalGids": _groups(security)},
        "args": [*command, *arguments],
        "cwd": image.get("WorkingDir") or "/",
        "env": [f"{name}={value}" for name, value in (own | variables).items()],
        "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), capabilities),
        "noNewPrivileges": not security["allowPrivilegeEscalation"],
    }


def _user(security: Object, image: dict[str, Any]) -> tuple[int, int]:
    """Return the user and group that the pod asks for, else the image's, else root."""
    user, _, group = (image.get("User") or "0:0").partition(":")
    return security.get("runAsUser", int(user)), security.get("runAsGroup", int(group or 0))


def _groups(security: Object) -> list[int]:
    return [security["fsGroup"]] if "fsGroup" in security else []


def _resources(limits: Object) -> dict[str, Any]:
    """Return what a container may use: its memory, and whole CPUs."""
    found: dict[str, Any] = {}
    if "memory" in limits:
        found["memory"] = {"limit": size_bytes(limits["memory"])}
    if "cpu" in limits:
        found["cpu"] = {"period": CPU_PERIOD_US, "quota": int(limits["cpu"]) * CPU_PERIOD_US}
    return found


def size_bytes(quantity: str) -> int:
    """Return a size in binary units, as Kubernetes writes it."""
    return int(quantity[:-2]) << {"Mi": 20, "Gi": 30}[quantity[-2:]]


def _seccomp(security: Object) -> dict[str, Any]:
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    return default_profile()


def _system_mounts(place: Place) -> list[dict[str, Any]]:
    return [
        *(
            {"destination": f"/{target}", "type": kind, "source": source, "options": options}
            for target, kind, source, options in SYSTEM_MOUNTS
        ),
        _bind(place.hosts, "/etc/hosts", "ro"),
    ]


def _volume_mounts(container: Object, place: Place) -> list[dict[str, Any]]:
    return [
        _bind(
            place.volumes[each["name"]], each["mountPath"], "ro" if each.get("readOnly") else "rw"
        )
        for each in container.get("volumeMounts", [])
    ]


def _bind(source: Path, target: str, mode: str) -> dict[str, Any]:
    options = ["rbind", mode, "nosuid", "nodev"]
    return {"destination": target, "type": "bind", "source": str(source), "options": options}


def write(directory: Path, configured: dict[str, Any]) -> None:
    (directory / "config.json").write_text(json.dumps(configured, indent=1))
