"""The scheduler's image, built and run as the overlay `dev` has it, behind its network policies."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.k8s.images.build import Store
from tests.k8s.images.cluster import Cluster
from tests.k8s.images.conftest import CLIENT, IMAGES, READY_S
from tests.k8s.images.policies import Flow, endpoint
from tests.k8s.objects import REDIS, SCHEDULER, Object

# The first of them waits for the images.
pytestmark = [pytest.mark.long, pytest.mark.timeout(5400)]
SERVICES = (SCHEDULER,)


def client_pod(scheduler: str) -> Object:
    """Return a pod that submits a job, and says nothing of its user: the image says it."""
    return {
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [
            {
                "args": ["submit", "Once upon a time", "--target", f"{scheduler}:50051"],
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
            }
        ],
    }


def submit(cluster: Cluster) -> str:
    pod = client_pod(cluster.network.addresses[SCHEDULER])
    return cluster.run(CLIENT.name, pod, IMAGES[SCHEDULER])


@pytest.mark.parametrize("name", SERVICES)
def test_an_image_drops_privileges_by_itself(store: Store, name: str) -> None:
    settings = store.settings(IMAGES[name])
    assert settings["User"] == "10001:10001"
    assert settings["Entrypoint"] == ["stepserve"]


@pytest.mark.parametrize("name", SERVICES)
def test_an_image_has_no_more_than_it_runs(store: Store, name: str) -> None:
    with store.container(IMAGES[name]) as container:
        code = "import importlib.util as u; print([n for n in %r if u.find_spec(n)])"
        others = ["torch", "triton"]
        command = ["/opt/stepserve/bin/python", "-c", code % ["stepserve", *others]]
        assert store.buildah("run", container, "--", *command) == "['stepserve']"
        root = Path(store.buildah("mount", container))
        of_the_build = [root / place for place in ("src", "root/wheels", "root/.config")]
        assert not [place for place in of_the_build if place.exists()]


@pytest.mark.parametrize("name", SERVICES)
def test_a_pod_has_no_rights(cluster: Cluster, name: str) -> None:
    for process in cluster.pods[name].processes():
        assert process["Uid"].split() == process["Gid"].split() == ["10001"] * 4
        sets = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
        assert {int(process[each], 16) for each in sets} == {0}
        assert process["NoNewPrivs"] == "1"
        assert process["Seccomp"] == "2", "no filter of system calls"


@pytest.mark.parametrize("name", SERVICES)
def test_a_pod_writes_to_its_two_volumes_alone(cluster: Cluster, name: str) -> None:
    for directory in ("/", "/opt/stepserve", "/etc", "/cache", "/tmp"):
        tried = cluster.pods[name].inside("touch", f"{directory}/new")
        if directory in ("/cache", "/tmp"):
            assert tried.returncode == 0, tried.stderr
        else:
            assert "Read-only file system" in tried.stderr


def test_a_job_is_taken(cluster: Cluster) -> None:
    assert re.fullmatch(r"\S+\n", submit(cluster)), "no job id alone"


def test_the_network_lets_through_what_the_policies_name(cluster: Cluster) -> None:
    ports = {name: endpoint(cluster.objects, name).ports.values() for name in IMAGES}
    pods = [*IMAGES, CLIENT.name]
    reached = set[Flow]().union(*(cluster.network.reached(pod, ports) for pod in pods))
    assert reached == {
        Flow(SCHEDULER, REDIS, 6379),
        Flow(CLIENT.name, SCHEDULER, 50051),
    }
    with cluster.network.opened():
        reached = set[Flow]().union(*(cluster.network.reached(pod, ports) for pod in pods))
    assert len(reached) == 1 * 2 + 2 * 2, (
        "every port of every other pod answers where nothing is closed"
    )


def test_a_pod_ends_when_it_is_told_and_comes_again(cluster: Cluster) -> None:
    for name in (*SERVICES, REDIS):
        assert cluster.pods[name].terminate() == 0
        cluster.pods[name].launch()
    for name in IMAGES:
        cluster.wait_until_ready(name, READY_S)
    assert re.fullmatch(r"\S+\n", submit(cluster)), "no job id alone"
