"""The system calls that container engines let a process without capabilities make."""

from __future__ import annotations

import json
import platform
from typing import Any

from tests.k8s.images.build import seccomp_file

ARCHITECTURES = {"x86_64": ("SCMP_ARCH_X86_64", "amd64"), "aarch64": ("SCMP_ARCH_AARCH64", "arm64")}


def default_profile() -> dict[str, Any]:
    """Return the engines' default profile, in the form that a runtime takes."""
    profile = json.loads(seccomp_file().read_text())
    constant, name = ARCHITECTURES[platform.machine()]
    [known] = [each for each in profile["archMap"] if each["architecture"] == constant]
    return {
        "defaultAction": profile["defaultAction"],
        "defaultErrnoRet": profile["defaultErrnoRet"],
        "architectures": [constant, *known["subArchitectures"]],
        "syscalls": [_rule(each) for each in profile["syscalls"] if _applies(each, name)],
    }


def _applies(rule: dict[str, Any], architecture: str) -> bool:
    """Say whether a rule is for a process here that has no capabilities."""
    needs, shuns = rule.get("includes") or {}, rule.get("excludes") or {}
    return (
        not needs.get("caps")
        and architecture in needs.get("arches", [architecture])
        and architecture not in shuns.get("arches", [])
    )


def _rule(rule: dict[str, Any]) -> dict[str, Any]:
    names = ("names", "action", "errnoRet", "args")
    return {name: rule[name] for name in names if rule.get(name)}
