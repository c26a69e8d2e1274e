"""The images, built and run as the overlay `dev` has them run, behind its network policies."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import cast

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from stepserve_bench.demo.storyteller import MODEL_DIR
from tests.k8s.images.build import Store
from tests.k8s.images.bundle import size_bytes
from tests.k8s.images.cluster import Cluster
from tests.k8s.images.conftest import CLIENT, IMAGES
from tests.k8s.images.policies import Flow, endpoint
from tests.k8s.objects import REDIS, SCHEDULER, WORKER, Object, pod_spec, workload

# The first of them waits for the images.
pytestmark = [pytest.mark.long, pytest.mark.timeout(5400)]
SERVICES = (SCHEDULER, WORKER)
PROMPT = "Once upon a time"
NUM_TOKENS = 24
JOB = (PROMPT, "--temperature", "0", "--max-tokens", str(NUM_TOKENS))
# What a build leaves where nobody clears up.
OF_THE_BUILD = (
    *("src", "root/wheels", "root/.config", "root/.cache"),
    *("var/cache/apt/archives/*.deb", "var/lib/apt/lists/*"),
)


def client_pod(arguments: list[str]) -> Object:
    """Return a pod that runs a command, and says nothing of its user: the image says it."""
    return {
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [
            {
                "args": arguments,
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
            }
        ],
    }


def client(cluster: Cluster, *arguments: str) -> str:
    """Run a command of the client's against the scheduler, and return its standard output."""
    target = f"{cluster.network.addresses[SCHEDULER]}:50051"
    pod = client_pod([*arguments, "--target", target])
    return cluster.run(CLIENT.name, pod, IMAGES[SCHEDULER])


@functools.cache
def greedy() -> str:
    """Return what the demo model continues the prompt with, by transformers."""
    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    model = AutoModelForCausalLM.from_pretrained(MODEL_DIR, dtype="float32")
    given = tokenizer(PROMPT, return_tensors="pt")
    output = model.generate(**given, do_sample=False, max_new_tokens=NUM_TOKENS)
    text = tokenizer.decode(output[0][given["input_ids"].shape[1] :], skip_special_tokens=True)
    return cast(str, text)


@pytest.mark.parametrize("name", SERVICES)
def test_an_image_drops_privileges_by_itself(store: Store, name: str) -> None:
    settings = store.settings(IMAGES[name])
    assert settings["User"] == "10001:10001"
    assert settings["Entrypoint"] == ["stepserve"]


@pytest.mark.parametrize("name", SERVICES)
def test_an_image_has_no_more_than_it_runs(store: Store, name: str) -> None:
    with store.container(IMAGES[name]) as container:
        code = "import importlib.util as u; print([n for n in %r if u.find_spec(n)])"
        others = ["torch", "triton"] if name == SCHEDULER else ["redis", "starlette"]
        command = ["/opt/stepserve/bin/python", "-c", code % ["stepserve", *others]]
        assert store.buildah("run", container, "--", *command) == "['stepserve']"
        root = Path(store.buildah("mount", container))
        assert not [found for place in OF_THE_BUILD for found in root.glob(place)]


@pytest.mark.parametrize("name", SERVICES)
def test_a_pod_has_no_rights(cluster: Cluster, name: str) -> None:
    processes = cluster.pods[name].processes()
    assert processes
    for process in processes:
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


def test_a_job_is_served(cluster: Cluster) -> None:
    assert client(cluster, "generate", *JOB) == greedy()


@pytest.mark.parametrize("name", SERVICES)
def test_what_a_pod_wrote_fits_its_volumes(cluster: Cluster, name: str) -> None:
    for volume in (pod_spec(workload(cluster.objects, name)) or {})["volumes"]:
        place, limit = cluster.volumes[name][volume["name"]], volume["emptyDir"]["sizeLimit"]
        used = sum(file.lstat().st_blocks * 512 for file in place.rglob("*"))
        print(f"{name}: {used / 2**20:.1f} MiB of {limit} in {volume['name']}", flush=True)
        assert used <= size_bytes(limit)


def test_the_network_lets_through_what_the_policies_name(cluster: Cluster) -> None:
    ports = {name: endpoint(cluster.objects, name).ports.values() for name in IMAGES}
    pods = [*IMAGES, CLIENT.name]
    reached = set[Flow]().union(*(cluster.network.reached(pod, ports) for pod in pods))
    assert reached == {
        Flow(SCHEDULER, REDIS, 6379),
        Flow(SCHEDULER, WORKER, 50061),
        Flow(WORKER, SCHEDULER, 50051),
        Flow(CLIENT.name, SCHEDULER, 50051),
    }
    with cluster.network.opened():
        reached = set[Flow]().union(*(cluster.network.reached(pod, ports) for pod in pods))
    assert len(reached) == 5 * 3, "every port of every other pod answers where nothing is closed"


def test_a_job_outlives_every_pod_and_each_ends_in_time(cluster: Cluster) -> None:
    assert cluster.stop_workload(WORKER) == 0
    job_id = client(cluster, "submit", *JOB).strip()
    for name in (SCHEDULER, REDIS):
        assert cluster.stop_workload(name) == 0
    for name in IMAGES:
        cluster.pods[name].launch()
    for name in IMAGES:
        cluster.wait_until_ready(name)
    assert client(cluster, "attach", job_id) == greedy()
