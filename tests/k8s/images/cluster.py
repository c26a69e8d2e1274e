"""The pods of rendered manifests, run from their images as a node of a cluster runs them."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from pathlib import Path

from tests.k8s.images.build import Store
from tests.k8s.images.bundle import Place, configuration, write
from tests.k8s.images.container import Container
from tests.k8s.images.network import Network
from tests.k8s.images.sources import environment, volumes
from tests.k8s.objects import Object, pod_spec, service_container, workload

RUN_S = 300.0
# What a kubelet asks, from where it may.
ASK_HEALTH = """
import grpc, sys
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
channel = grpc.insecure_channel(sys.argv[1])
try:
    answer = HealthStub(channel).Check(HealthCheckRequest(service=sys.argv[2]), timeout=10)
    print(HealthCheckResponse.ServingStatus.Name(answer.status))
except grpc.RpcError as error:
    print(error.code())
"""


class Cluster:
    """Pods of one container each, in a network of their own. Call ``close``."""

    def __init__(self, directory: Path, store: Store, objects: list[Object]) -> None:
        self.network = Network()
        self.objects = objects
        self.pods: dict[str, Container] = {}
        self._directory = directory
        self._store = store
        self._num_started = 0

    def join(self, names: Iterable[str]) -> None:
        """Give pods addresses and tell each of all, by name, before any is started."""
        for name in names:
            self.network.add(name)
        lines = [f"{address} {name}" for name, address in self.network.addresses.items()]
        hosts = self._directory / "hosts"
        hosts.write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))
        hosts.chmod(0o444)

    def start(self, name: str, spec: Object, image: str) -> Container:
        """Start a pod from an image, with what its specification says."""
        self._num_started += 1
        bundle = self._directory / f"{name}-{self._num_started}"
        bundle.mkdir()
        place = Place(
            # Unmounted and removed with its store.
            root=Path(self._store.buildah("mount", self._store.buildah("from", image))),
            network=self.network.path(name),
            host_name=name,
            hosts=self._directory / "hosts",
            volumes=volumes(self.objects, spec, bundle),
        )
        given = environment(self.objects, spec["containers"][0])
        write(bundle, configuration(spec, self._store.settings(image), given, place))
        self.pods[name] = Container(name, bundle)
        self.pods[name].launch()
        return self.pods[name]

    def start_workload(self, name: str) -> None:
        """Start a workload's pod from the image that it names."""
        found = workload(self.objects, name)
        self.start(name, pod_spec(found) or {}, f"localhost/{service_container(found)['image']}")

    def run(self, name: str, spec: Object, image: str) -> str:
        """Run a pod to its end, and return what it printed; fail where it fails."""
        pod = self.start(name, spec, image)
        status = pod.wait(RUN_S)
        assert status == 0, pod.output()
        return pod.output()

    def wait_until_ready(self, name: str, timeout_s: float) -> None:
        """Probe a workload as its manifest says, until it answers that it is ready."""
        probe = service_container(workload(self.objects, name))["readinessProbe"]
        deadline = time.monotonic() + timeout_s
        while not self._is_ready(name, probe):
            said = self.pods[name].output()
            assert not self.pods[name].has_ended, f"{name} has ended:\n{said}"
            assert time.monotonic() < deadline, f"{name} is not ready:\n{said}"
            time.sleep(probe["periodSeconds"] / 5)

    def _is_ready(self, name: str, probe: Object) -> bool:
        if "exec" in probe:
            return self.pods[name].inside(*probe["exec"]["command"]).returncode == 0
        place = f"{self.network.addresses[name]}:{probe['grpc']['port']}"
        arguments = ["-I", "-c", ASK_HEALTH, place, probe["grpc"].get("service", "")]
        return self.network.enter(name, sys.executable, *arguments).strip() == "SERVING"

    def close(self) -> None:
        """Kill what still runs, and remove the network."""
        try:
            for pod in self.pods.values():
                pod.remove()
        finally:
            self.network.close()
