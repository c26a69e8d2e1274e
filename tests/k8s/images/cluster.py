"""The pods of rendered manifests, run from their images as a node of a cluster runs them."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

from tests.k8s.images.build import Store
from tests.k8s.images.bundle import Place, configuration, write
from tests.k8s.images.container import Container
from tests.k8s.images.network import Network
from tests.k8s.images.policies import endpoint
from tests.k8s.images.probes import answers
from tests.k8s.images.sources import environment, volumes
from tests.k8s.objects import Object, pod_spec, service_container, workload

RUN_S, READY_S = 300.0, 600.0


class Cluster:
    """Pods of one container each, in a network of their own. Call ``close``, whatever happens."""

    def __init__(self, directory: Path, store: Store, objects: list[Object]) -> None:
        self.network = Network()
        self.objects = objects
        self.pods: dict[str, Container] = {}
        # The directories of each pod's volumes, by pod and by the names of the volumes.
        self.volumes: dict[str, dict[str, Path]] = {}
        self._directory = directory
        self._store = store
        self._num_started = 0

    def join(self, names: Iterable[str]) -> None:
        """Give pods addresses and tell each of all, by name, before any is started."""
        self.network.open()
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
        self.volumes[name] = volumes(self.objects, spec, bundle)
        place = Place(
            # Unmounted and removed with its store.
            root=Path(self._store.buildah("mount", self._store.buildah("from", image))),
            network=self.network.path(name),
            host_name=name,
            hosts=self._directory / "hosts",
            volumes=self.volumes[name],
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

    def stop_workload(self, name: str) -> int:
        """End a workload's pod as a kubelet does, within its grace; return its exit status."""
        started, spec = time.monotonic(), pod_spec(workload(self.objects, name)) or {}
        hook = spec["containers"][0].get("lifecycle", {}).get("preStop")
        if hook:
            done = self.pods[name].inside(*hook["exec"]["command"])
            assert done.returncode == 0, done.stderr
        left_s = spec["terminationGracePeriodSeconds"] - (time.monotonic() - started)
        status = self.pods[name].terminate(left_s)
        print(f"{name}: ended in {time.monotonic() - started:.1f} s", flush=True)
        return status

    def run(self, name: str, spec: Object, image: str) -> str:
        """Run a pod to its end, and return its standard output; fail where it fails."""
        pod = self.start(name, spec, image)
        status = pod.wait(RUN_S)
        assert status == 0, pod.said()
        return pod.output()

    def wait_until_ready(self, name: str) -> None:
        """Ask a workload's probes one after another until each has answered, as a kubelet does.

        The startup's has the time that the manifest gives it.
        """
        container = service_container(workload(self.objects, name))
        startup = container["startupProbe"]
        self._wait(name, startup, startup["periodSeconds"] * startup["failureThreshold"])
        for kind in ("readinessProbe", "livenessProbe"):
            self._wait(name, container[kind], READY_S)

    def _wait(self, name: str, probe: Object, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        container, pod = self.pods[name], endpoint(self.objects, name)
        while not answers(probe, pod, container, self.network):
            assert not container.has_ended, f"{name} has ended:\n{container.said()}"
            assert time.monotonic() < deadline, f"{name} answers no {probe}:\n{container.said()}"
            time.sleep(probe["periodSeconds"] / 5)

    def close(self) -> None:
        """Kill what still runs, and remove the network."""
        try:
            for pod in self.pods.values():
                pod.remove()
        finally:
            self.network.close()
