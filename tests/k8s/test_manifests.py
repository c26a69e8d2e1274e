"""The manifests are valid, safe, and say what the real commands understand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from scheduler_svc.api.server import STOP_GRACE_S as API_STOP_GRACE_S
from scheduler_svc.api.server import SUBMIT
from scheduler_svc.settings import SchedulerSettings
from stepserve.cli import parse
from stepserve.tls.identity import Identity
from tests.k8s.conftest import K8S, Render
from tests.k8s.objects import (
    CUSTOM_KINDS,
    NAME,
    REDIS,
    SCHEDULER,
    WORKER,
    Object,
    containers,
    of_kind,
    pod_labels,
    pod_spec,
    service_container,
    settings_of,
    workload,
    workloads,
)
from tests.k8s.schemas import CUSTOM
from worker_svc.server import DRAIN_TIMEOUT_S, STOP_GRACE_S
from worker_svc.settings import WorkerSettings

ROOT = Path(__file__).resolve().parents[2]
OLDEST_KUBERNETES = "1.27"  # the first in which gRPC probes are stable
INSTANCE = "app.kubernetes.io/instance"
OURS = (SCHEDULER, WORKER)


@pytest.mark.parametrize("version", [OLDEST_KUBERNETES, kubernetes_validate.latest_version()])
def test_schemas(objects: list[Object], version: str) -> None:
    for found in objects:
        if found["kind"] in CUSTOM_KINDS:
            jsonschema.validate(found, CUSTOM[found["kind"]])
        else:
            kubernetes_validate.validate(found, version, strict=True)


@pytest.mark.parametrize("kind", CUSTOM_KINDS)
def test_a_misspelt_field_of_a_custom_kind_is_found(kind: str, render: Render) -> None:
    """Or the test above would prove nothing."""
    found = next(iter(of_kind(render("prod"), kind).values()))
    jsonschema.validate(found, CUSTOM[kind])
    for spoilt in (found | {"speck": {}}, found | {"spec": found["spec"] | {"triggerz": []}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(spoilt, CUSTOM[kind])


def test_no_overlay_holds_a_namespace(objects: list[Object]) -> None:
    """To delete it would delete the volume with the jobs."""
    assert not of_kind(objects, "Namespace")
    namespace = yaml.safe_load((K8S / "namespace.yaml").read_text())
    kubernetes_validate.validate(namespace, OLDEST_KUBERNETES, strict=True)
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    inside = {found["metadata"].get("namespace") for found in objects}
    assert inside in ({None}, {namespace["metadata"]["name"]})


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
    for found in workloads(objects):
        check_restricted(found)
        for container in containers(found):
            assert container["resources"]["requests"].keys() >= {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]


def test_service_accounts_exist_and_hold_no_token(objects: list[Object]) -> None:
    accounts = of_kind(objects, "ServiceAccount")
    used = {(pod_spec(found) or {})["serviceAccountName"] for found in workloads(objects)}
    assert used == accounts.keys()
    assert all(account["automountServiceAccountToken"] is False for account in accounts.values())


def test_volumes_are_mounted_and_tmp_is_writable(objects: list[Object]) -> None:
    for found in workloads(objects):
        claims = found["spec"].get("volumeClaimTemplates", [])
        volumes = {v["name"] for v in (pod_spec(found) or {})["volumes"]}
        volumes |= {claim["metadata"]["name"] for claim in claims}
        mounted = [mount for c in containers(found) for mount in c["volumeMounts"]]
        assert {mount["name"] for mount in mounted} == volumes
        for container in (pod_spec(found) or {})["containers"]:
            assert "/tmp" in {mount["mountPath"] for mount in container["volumeMounts"]}


def test_images_are_pinned(objects: list[Object]) -> None:
    project = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert project
    for found in workloads(objects):
        for container in containers(found):
            name, _, tag = container["image"].partition(":")
            assert re.fullmatch(r"\d+\.\d+\.\d+(-\w+)?", tag), container["image"]
            assert name == "redis" or tag.startswith(project[1])


def test_probes_and_services_name_ports_that_exist(objects: list[Object]) -> None:
    services = of_kind(objects, "Service")
    for name in (*OURS, REDIS):
        found = workload(objects, name)
        container = service_container(found)
        by_name = {port["name"]: port["containerPort"] for port in container["ports"]}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            for port in _probed_ports(container[probe]):
                assert by_name.get(port, port) in by_name.values()
        service = services[name]
        assert service["spec"]["selector"].items() <= pod_labels(found).items()
        for port in service["spec"]["ports"]:
            assert by_name[port["targetPort"]] == port["port"]


def _probed_ports(probe: Object) -> list[Any]:
    return [probe[how]["port"] for how in ("grpc", "tcpSocket", "httpGet") if how in probe]


def test_our_services_are_probed_by_grpc(objects: list[Object]) -> None:
    for name in OURS:
        container = service_container(workload(objects, name))
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        # Probes speak no TLS. Without a name: whether the process lives. A scheduler is ready while
        # it takes jobs, also while they wait for a worker.
        is_alive = {"port": ports.get("health", ports["grpc"])}
        is_ready = is_alive | ({"service": SUBMIT} if name == SCHEDULER else {})
        assert container["startupProbe"]["grpc"] == is_alive
        assert container["livenessProbe"]["grpc"] == is_alive
        assert container["readinessProbe"]["grpc"] == is_ready


def test_the_grace_is_longer_than_what_an_end_takes(objects: list[Object]) -> None:
    lease_ttl_s = SchedulerSettings.model_fields["lease_ttl_s"].default
    # A lane has one TTL to hand its jobs over, and its requests to Redis are patient.
    ends = {SCHEDULER: 2 * lease_ttl_s + API_STOP_GRACE_S, WORKER: DRAIN_TIMEOUT_S + STOP_GRACE_S}
    for name, end_s in ends.items():
        found = workload(objects, name)
        before = service_container(found).get("lifecycle", {}).get("preStop", {})
        [*_, before_s] = before.get("exec", {}).get("command", ["0"])
        assert (pod_spec(found) or {})["terminationGracePeriodSeconds"] > int(before_s) + 2 * end_s
    # So long new connections go elsewhere before none are taken any more.
    lifecycle = service_container(workload(objects, SCHEDULER))["lifecycle"]
    assert lifecycle["preStop"]["exec"]["command"] == ["sleep", "5"]


def test_workers_and_redis_are_headless(objects: list[Object]) -> None:
    services = of_kind(objects, "Service")
    headless = {
        name for name, found in services.items() if found["spec"].get("clusterIP") == "None"
    }
    assert headless == {REDIS, WORKER}
    assert of_kind(objects, "StatefulSet")[REDIS]["spec"]["serviceName"] in headless


def test_only_schedulers_reach_workers_and_redis(objects: list[Object]) -> None:
    policies = of_kind(objects, "NetworkPolicy")
    closed = policies["stepserve-closed"]["spec"]
    assert closed.keys() == {"podSelector", "policyTypes"}
    assert closed["policyTypes"] == ["Ingress"]
    for found in workloads(objects):
        # Nobody else's pods of the namespace are closed.
        labels = pod_labels(found)
        assert closed["podSelector"]["matchLabels"].items() <= labels.items()
        assert NAME not in closed["podSelector"]["matchLabels"]
    for name in (*OURS, REDIS):
        [rule] = policies[name]["spec"]["ingress"]
        labels = pod_labels(workload(objects, name))
        selected = policies[name]["spec"]["podSelector"]["matchLabels"]
        assert selected.items() <= labels.items()
        assert selected[NAME] == name
        ports = {port["name"] for port in service_container(workload(objects, name))["ports"]}
        assert [port["port"] for port in rule["ports"]] == sorted(ports & {"grpc", "redis"})
        if name != SCHEDULER:
            [source] = rule["from"]
            assert source["podSelector"]["matchLabels"][NAME] == SCHEDULER


def test_every_selector_names_the_instance(objects: list[Object]) -> None:
    """Two installations in one namespace leave each other alone."""
    for name in OURS:
        assert INSTANCE in workload(objects, name)["spec"]["selector"]["matchLabels"]
        assert INSTANCE in of_kind(objects, "Service")[name]["spec"]["selector"]
        budget = of_kind(objects, "PodDisruptionBudget")[name]
        assert INSTANCE in budget["spec"]["selector"]["matchLabels"]


def test_a_cpu_worker_has_a_thread_for_every_cpu_it_may_use(render: Render) -> None:
    objects = render("dev")
    limits = service_container(workload(objects, WORKER))["resources"]["limits"]
    assert limits["cpu"] == settings_of(objects)["STEPSERVE_NUM_THREADS"]


def test_gpu_is_asked_for_where_it_is_used(objects: list[Object]) -> None:
    limits = service_container(workload(objects, WORKER))["resources"]["limits"]
    is_used = settings_of(objects)["STEPSERVE_DEVICE"] == "cuda"
    assert is_used == ("nvidia.com/gpu" in limits)


def test_command_lines_are_understood(
    objects: list[Object], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(objects)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("STEPSERVE_REDIS_URL", "redis://:secret@stepserve-redis:6379/0")
    services = of_kind(objects, "Service")
    parsed: dict[str, Any] = {}
    for name in OURS:
        container = service_container(workload(objects, name))
        parsed[name] = parse(container["args"])
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        served = {"grpc": "port", "metrics": "metrics_port", "health": "health_port"}
        assert ports == {
            port: getattr(parsed[name], field)
            for port, field in served.items()
            if getattr(parsed[name], field) is not None
        }
        given = parsed[name].model
        assert given in (settings["STEPSERVE_MODEL"], [settings["STEPSERVE_MODEL"]])
        assert parsed[name].host == "0.0.0.0"
    scheduler = parsed[SCHEDULER]
    assert isinstance(scheduler, SchedulerSettings)
    assert scheduler.max_connection_age_s > 0, "new schedulers would get no clients"
    host, _, port = scheduler.workers.rpartition(":")
    assert services[host]["spec"]["ports"][0]["port"] == int(port)


def test_what_others_reach_asks_who_they_are(
    objects: list[Object], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Over TLS; or it is said that it does not."""
    settings = settings_of(objects)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    scheduler = parse(service_container(workload(objects, SCHEDULER))["args"])
    worker = parse(service_container(workload(objects, WORKER))["args"])
    assert isinstance(scheduler, SchedulerSettings)
    assert isinstance(worker, WorkerSettings)
    scheduler.check_host(scheduler.host)
    worker.check_host()
    is_insecure = settings.get("STEPSERVE_INSECURE") == "true"
    assert len(caplog.records) == (2 if is_insecure else 0)
    if is_insecure:
        return
    for found, container in ((scheduler, SCHEDULER), (worker, WORKER)):
        mounts = service_container(workload(objects, container))["volumeMounts"]
        paths = (*found.fleet_files.paths, *getattr(found, "tls_files", Identity()).paths)
        for path in filter(None, (*paths, getattr(found, "api_keys_file", ""))):
            assert any(path.startswith(f"{mount['mountPath']}/") for mount in mounts), path


def test_wrong_command_lines_are_refused(objects: list[Object]) -> None:
    """Or the test above would prove nothing."""
    args = service_container(workload(objects, WORKER))["args"]
    with pytest.raises(SystemExit):
        parse([*args, "--model=m", "--no-such-flag=1"])


def test_settings_exist(objects: list[Object]) -> None:
    """A misspelt variable would be refused when the pods start."""
    fields = SchedulerSettings.model_fields.keys() | WorkerSettings.model_fields.keys()
    for name in settings_of(objects):
        assert name.removeprefix("STEPSERVE_").lower() in fields
