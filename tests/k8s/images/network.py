"""A cluster's network in one kernel: a namespace for each pod, routed through one that filters."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.k8s.images.policies import Flow
from tests.k8s.images.tools import run, variables

NAMESPACES = Path("/run/netns")
# Tries every address given and prints those that a connection was made to; nobody answers
# where it is filtered, so each is waited for.
CONNECT = """
import concurrent.futures, json, socket, sys
def reached(place):
    try:
        socket.create_connection(place, timeout=5).close()
    except TimeoutError:
        return False
    return True
places = [tuple(place) for place in json.loads(sys.argv[1])]
with concurrent.futures.ThreadPoolExecutor(32) as pool:
    print(json.dumps(list(pool.map(reached, places))))
"""


class Network:
    """Pods' namespaces, each joined to a router that forwards only what it is told to.

    Call ``open``, which lets nothing through yet, and ``close``, also where something failed.
    Nothing outside is changed: links are made inside the namespaces.
    """

    def __init__(self) -> None:
        self._prefix = f"stepserve-{os.getpid()}"
        self._router = f"{self._prefix}-router"
        self._flows: list[Flow] = []
        self.addresses: dict[str, str] = {}

    def open(self) -> None:
        """Make the router's namespace."""
        run("ip", "netns", "add", self._router)
        self._enter(self._router, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        self.restrict([])

    def add(self, pod: str) -> None:
        """Make a pod's namespace, with an address of its own."""
        index = len(self.addresses) + 1
        namespace, link = self.path(pod).name, f"pod{index}"
        self.addresses[pod] = f"10.244.{index}.2"
        run("ip", "netns", "add", namespace)
        ends = [("name", link, "netns", self._router), ("name", "eth0", "netns", namespace)]
        run("ip", "link", "add", *ends[0], "type", "veth", "peer", *ends[1])
        self._ip(self._router, "address", "add", f"10.244.{index}.1/24", "dev", link)
        self._ip(self._router, "link", "set", link, "up")
        self._ip(namespace, "link", "set", "lo", "up")
        self._ip(namespace, "address", "add", f"{self.addresses[pod]}/24", "dev", "eth0")
        self._ip(namespace, "link", "set", "eth0", "up")
        self._ip(namespace, "route", "add", "default", "via", f"10.244.{index}.1")

    def path(self, pod: str) -> Path:
        return NAMESPACES / f"{self._prefix}-{pod}"

    def restrict(self, flows: Iterable[Flow]) -> None:
        """Let through these connections, their answers, and nothing else."""
        self._flows = sorted(flows)
        rules = [
            f"ip saddr {self.addresses[each.source]} ip daddr {self.addresses[each.target]} "
            f"tcp dport {each.port} accept"
            for each in self._flows
        ]
        self._filter("drop", ["ct state established,related accept", *rules])

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Let everything through, as a cluster does whose network enforces no policies."""
        self._filter("accept", [])
        try:
            yield
        finally:
            self.restrict(self._flows)

    def reached(self, source: str, places: Mapping[str, Iterable[int]]) -> set[Flow]:
        """Return what connections a pod can make, of those to each port of the other pods."""
        wanted = [
            Flow(source, target, port)
            for target, ports in places.items()
            for port in ports
            if target != source
        ]
        pairs = [(self.addresses[each.target], each.port) for each in wanted]
        answer = self.enter(source, sys.executable, "-I", "-c", CONNECT, json.dumps(pairs))
        return {flow for flow, is_open in zip(wanted, json.loads(answer), strict=True) if is_open}

    def enter(self, pod: str, *command: str | Path) -> str:
        """Run a program of this machine in a pod's network."""
        return self._enter(self.path(pod).name, *command)

    def close(self) -> None:
        """Remove the namespaces that were made, and with them every link."""
        names = (path.name for path in NAMESPACES.glob(f"{self._prefix}-*"))
        failed = [name for name in names if not _delete(name)]
        assert not failed, f"network namespaces that are left: {failed}"

    def _filter(self, policy: str, rules: list[str]) -> None:
        chain = f"type filter hook forward priority 0; policy {policy};"
        table = "\n".join(
            [
                *("add table inet policies", "delete table inet policies"),
                *("table inet policies {", "chain forward {", chain, *rules, "}", "}"),
            ]
        )
        self._enter(self._router, "nft", "--file", "-", given=table)

    def _ip(self, namespace: str, *arguments: str) -> None:
        run("ip", "-netns", namespace, *arguments)

    @staticmethod
    def _enter(namespace: str, *command: str | Path, given: str | None = None) -> str:
        return run("ip", "netns", "exec", namespace, *command, given=given)


def _delete(namespace: str) -> bool:
    command = ["ip", "netns", "delete", namespace]
    return subprocess.run(command, env=variables(), check=False).returncode == 0
