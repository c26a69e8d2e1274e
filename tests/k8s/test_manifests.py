"""The manifests are valid, safe, and say what the real commands understand."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from scheduler_svc.api.server import SUBMIT
from scheduler_svc.settings import SchedulerSettings
from stepserve.cli import parse
from tests.k8s.objects import Object, containers, of_kind, pod_spec
from worker_svc.settings import WorkerSettings

ROOT = Path(__file__).resolve().parents[2]
VARIANTS = {"base": ROOT / "k8s/base", "cpu": ROOT / "k8s/overlays/cpu"}
OLDEST_KUBERNETES = "1.27"  # the first in which gRPC probes are stable
NAME = "app.kubernetes.io/name"


@pytest.fixture(params=list(VARIANTS))
def objects(request: pytest.FixtureRequest, render: Callable[[Path], list[Object]]) -> list[Object]:
    return render(VARIANTS[request.param])


def workloads(objects: list[Object]) -> list[Object]:
    found = sorted(filter(pod_spec, objects), key=lambda item: str(item["metadata"]["name"]))
    assert [item["metadata"]["name"] for item in found] == [
        "stepserve-redis",
        "stepserve-scheduler",
        "stepserve-worker",
    ]
    return found


def pod_labels(workload: Object) -> dict[str, str]:
    labels: dict[str, str] = workload["spec"]["template"]["metadata"]["labels"]
    return labels


@pytest.mark.parametrize("version", [OLDEST_KUBERNETES, kubernetes_validate.latest_version()])
def test_schemas(objects: list[Object], version: str) -> None:
    for found in objects:
        kubernetes_validate.validate(found, version, strict=True)


def check_restricted(workload: Object) -> None:
    """Assert that its pods meet the restricted standard."""
    pod = pod_spec(workload)
    assert pod is not None
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert not pod.keys() & {"hostNetwork", "hostPID", "hostIPC"}
    assert all("hostPath" not in volume for volume in pod["volumes"])
    for container in containers(workload):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_pods_meet_the_restricted_standard(objects: list[Object]) -> None:
    for workload in workloads(objects):
        check_restricted(workload)


def test_service_accounts_exist_and_hold_no_token(objects: list[Object]) -> None:
    accounts = of_kind(objects, "ServiceAccount")
    used = {(pod_spec(workload) or {})["serviceAccountName"] for workload in workloads(objects)}
    assert used == accounts.keys()
    assert all(account["automountServiceAccountToken"] is False for account in accounts.values())


def test_volumes_are_mounted_and_tmp_is_writable(objects: list[Object]) -> None:
    for workload in workloads(objects):
        claims = workload["spec"].get("volumeClaimTemplates", [])
        volumes = {v["name"] for v in (pod_spec(workload) or {})["volumes"]}
        volumes |= {claim["metadata"]["name"] for claim in claims}
        for container in containers(workload):
            mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
            assert set(mounts.values()) == volumes
            assert "/tmp" in mounts


def test_images_are_pinned(objects: list[Object]) -> None:
    for workload in workloads(objects):
        for container in containers(workload):
            tag = container["image"].partition(":")[2]
            assert re.fullmatch(r"\d+\.\d+\.\d+(-\w+)?", tag), container["image"]
    project = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert project
    ours = [c["image"] for w in workloads(objects)[1:] for c in containers(w)]
    assert all(image.partition(":")[2].startswith(project[1]) for image in ours)


def test_probes_and_services_name_ports_that_exist(objects: list[Object]) -> None:
    services = of_kind(objects, "Service")
    for workload in workloads(objects):
        (container,) = containers(workload)
        by_name = {port["name"]: port["containerPort"] for port in container["ports"]}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            for port in _probed_ports(container[probe]):
                assert by_name.get(port, port) in by_name.values()
        service = services[workload["metadata"]["name"]]
        assert service["spec"]["selector"].items() <= pod_labels(workload).items()
        for port in service["spec"]["ports"]:
            assert by_name[port["targetPort"]] == port["port"]


def _probed_ports(probe: Object) -> list[Any]:
    return [probe[how]["port"] for how in ("grpc", "tcpSocket", "httpGet") if how in probe]


def test_our_services_are_probed_by_grpc(objects: list[Object]) -> None:
    for workload in workloads(objects)[1:]:
        (container,) = containers(workload)
        (port,) = container["ports"]
        # Without a name: whether the process lives. A scheduler is ready while it takes jobs,
        # also while they wait for a worker.
        is_alive = {"port": port["containerPort"]}
        is_ready = is_alive | ({"service": SUBMIT} if container["name"] == "scheduler" else {})
        assert container["startupProbe"]["grpc"] == is_alive
        assert container["livenessProbe"]["grpc"] == is_alive
        assert container["readinessProbe"]["grpc"] == is_ready


def test_workers_and_redis_are_headless(objects: list[Object]) -> None:
    services = of_kind(objects, "Service")
    headless = {
        name for name, found in services.items() if found["spec"].get("clusterIP") == "None"
    }
    assert headless == {"stepserve-redis", "stepserve-worker"}
    assert of_kind(objects, "StatefulSet")["stepserve-redis"]["spec"]["serviceName"] in headless


def test_only_schedulers_reach_workers_and_redis(objects: list[Object]) -> None:
    policies = of_kind(objects, "NetworkPolicy")
    assert policies["stepserve-closed"]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress"]}
    for workload in workloads(objects):
        name = workload["metadata"]["name"]
        selected = [
            policy["spec"]
            for policy in policies.values()
            if policy["spec"]["podSelector"].get("matchLabels") == {NAME: name}
        ]
        (rule,) = selected[0]["ingress"]
        assert len(selected) == 1
        assert [port["port"] for port in rule["ports"]] == [
            containers(workload)[0]["ports"][0]["name"]
        ]
        if name != "stepserve-scheduler":
            scheduler = {NAME: "stepserve-scheduler"}
            assert rule["from"] == [{"podSelector": {"matchLabels": scheduler}}]


def test_disruptions_leave_a_scheduler(objects: list[Object]) -> None:
    budgets = of_kind(objects, "PodDisruptionBudget")
    by_name = {workload["metadata"]["name"]: workload for workload in workloads(objects)}
    for name in ("stepserve-scheduler", "stepserve-worker"):
        selector = budgets[name]["spec"]["selector"]["matchLabels"]
        assert selector.items() <= pod_labels(by_name[name]).items()
    replicas = by_name["stepserve-scheduler"]["spec"]["replicas"]
    assert 0 < budgets["stepserve-scheduler"]["spec"]["minAvailable"] < replicas


def test_redis_keeps_what_it_is_told(objects: list[Object]) -> None:
    (container,) = containers(of_kind(objects, "StatefulSet")["stepserve-redis"])
    command = container["command"]
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert options["--appendonly"] == "yes"
    assert options["--maxmemory-policy"] == "noeviction"
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert mounts[options["--dir"]] == "data"


def test_a_cpu_worker_has_a_thread_for_every_cpu_it_may_use(
    render: Callable[[Path], list[Object]],
) -> None:
    objects = render(VARIANTS["cpu"])
    settings = of_kind(objects, "ConfigMap")["stepserve-settings"]["data"]
    (worker,) = containers(of_kind(objects, "Deployment")["stepserve-worker"])
    assert worker["resources"]["limits"]["cpu"] == settings["STEPSERVE_NUM_THREADS"]


def test_gpu_is_asked_for_where_it_is_used(objects: list[Object]) -> None:
    settings = of_kind(objects, "ConfigMap")["stepserve-settings"]["data"]
    limits = containers(of_kind(objects, "Deployment")["stepserve-worker"])[0]["resources"][
        "limits"
    ]
    assert (settings["STEPSERVE_DEVICE"] == "cuda") == ("nvidia.com/gpu" in limits)


def test_command_lines_are_understood(
    objects: list[Object], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = of_kind(objects, "ConfigMap")["stepserve-settings"]["data"]
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    services = of_kind(objects, "Service")
    parsed = {}
    for workload in workloads(objects)[1:]:
        (container,) = containers(workload)
        name = workload["metadata"]["name"]
        parsed[name] = parse(container["args"])
        assert parsed[name].port == container["ports"][0]["containerPort"]  # type: ignore[attr-defined]
        assert parsed[name].model == settings["STEPSERVE_MODEL"]  # type: ignore[attr-defined]
    scheduler = parsed["stepserve-scheduler"]
    assert isinstance(scheduler, SchedulerSettings)
    host, _, port = scheduler.workers.rpartition(":")
    assert services[host]["spec"]["ports"][0]["port"] == int(port)
    host, _, port = scheduler.redis_url.removeprefix("redis://").partition("/")[0].partition(":")
    assert services[host]["spec"]["ports"][0]["port"] == int(port)


def test_wrong_command_lines_are_refused(objects: list[Object]) -> None:
    """Or the test above would prove nothing."""
    args = containers(of_kind(objects, "Deployment")["stepserve-worker"])[0]["args"]
    with pytest.raises(SystemExit):
        parse([*args, "--model=m", "--no-such-flag=1"])


def test_settings_exist(objects: list[Object]) -> None:
    """A misspelt variable would be ignored without a word."""
    fields = SchedulerSettings.model_fields.keys() | WorkerSettings.model_fields.keys()
    for name in of_kind(objects, "ConfigMap")["stepserve-settings"]["data"]:
        assert name.removeprefix("STEPSERVE_").lower() in fields
