"""What NetworkPolicies let through: the flows between pods, as Kubernetes defines them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from tests.k8s.objects import Object, pod_labels, service_container, workload

NAMESPACE_NAME = "kubernetes.io/metadata.name"


class Endpoint(NamedTuple):
    """A pod as policies see it: its place, its labels, and its ports by their names."""

    name: str
    namespace: str
    labels: Mapping[str, str]
    ports: Mapping[str, int]


class Flow(NamedTuple):
    """TCP connections that one pod makes to a port of another."""

    source: str
    target: str
    port: int


def endpoint(objects: list[Object], name: str) -> Endpoint:
    """Return the pod of a workload."""
    found = workload(objects, name)
    ports = {each["name"]: each["containerPort"] for each in service_container(found)["ports"]}
    return Endpoint(name, found["metadata"]["namespace"], pod_labels(found), ports)


def flows(policies: Iterable[Object], pods: Iterable[Endpoint]) -> set[Flow]:
    """Return what is let through, of all connections between two of the pods to a named port."""
    policies, pods = list(policies), list(pods)
    return {
        Flow(source.name, target.name, port)
        for source in pods
        for target in pods
        for port in target.ports.values()
        if source is not target
        and _passes(policies, "Ingress", target, source, (target, port))
        and _passes(policies, "Egress", source, target, (target, port))
    }


def _passes(
    policies: list[Object],
    direction: str,
    pod: Endpoint,
    peer: Endpoint,
    port: tuple[Endpoint, int],
) -> bool:
    """Say whether what selects the pod for a direction lets the peer through, or nothing does."""
    selecting = [
        policy
        for policy in policies
        if direction in policy["spec"]["policyTypes"]
        and policy["metadata"]["namespace"] == pod.namespace
        and _selects(policy["spec"]["podSelector"], pod.labels)
    ]
    rules = [
        (rule, policy["metadata"]["namespace"])
        for policy in selecting
        for rule in policy["spec"].get(direction.lower()) or []
    ]
    peers = "from" if direction == "Ingress" else "to"
    return not selecting or any(
        _names_port(rule.get("ports"), *port) and _names_peer(rule.get(peers), namespace, peer)
        for rule, namespace in rules
    )


def _names_port(ports: list[Object] | None, target: Endpoint, number: int) -> bool:
    """Say whether a rule has the port; one without ports has all."""
    if not ports:
        return True
    assert all(each.get("protocol", "TCP") == "TCP" and "endPort" not in each for each in ports)
    return number in [target.ports.get(each["port"], each["port"]) for each in ports]


def _names_peer(peers: list[Object] | None, namespace: str, pod: Endpoint) -> bool:
    """Say whether a rule of a policy of ``namespace`` has the pod; one without peers has all."""
    if not peers:
        return True
    return any(_is_peer(peer, namespace, pod) for peer in peers)


def _is_peer(peer: Object, namespace: str, pod: Endpoint) -> bool:
    assert set(peer) <= {"namespaceSelector", "podSelector"}, f"not known here: {peer}"
    if "namespaceSelector" in peer:
        inside = _selects(peer["namespaceSelector"], {NAMESPACE_NAME: pod.namespace})
    else:
        inside = pod.namespace == namespace
    return inside and _selects(peer.get("podSelector", {}), pod.labels)


def _selects(selector: Object, labels: Mapping[str, str]) -> bool:
    """Say whether a selector has these labels; an empty one has all."""
    assert set(selector) <= {"matchLabels", "matchExpressions"}, f"not known here: {selector}"
    wanted: Mapping[str, str] = selector.get("matchLabels", {})
    expressions = selector.get("matchExpressions", [])
    return wanted.items() <= labels.items() and all(_holds(each, labels) for each in expressions)


def _holds(expression: Object, labels: Mapping[str, str]) -> bool:
    value = labels.get(expression["key"])
    match expression["operator"]:
        case "In":
            return value in expression["values"]
        case "NotIn":
            return value not in expression["values"]
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
    raise ValueError(f"not known here: {expression}")
