"""Probes, as a kubelet asks them: by a program in the container, or at a port of the pod."""

from __future__ import annotations

import sys

from tests.k8s.images.container import Container
from tests.k8s.images.network import Network
from tests.k8s.images.policies import Endpoint
from tests.k8s.objects import Object

ASK_HEALTH = """
import grpc, sys
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
place, service, timeout_s = sys.argv[1:]
try:
    request = HealthCheckRequest(service=service)
    answer = HealthStub(grpc.insecure_channel(place)).Check(request, timeout=float(timeout_s))
    print(HealthCheckResponse.ServingStatus.Name(answer.status))
except grpc.RpcError as error:
    print(error.code())
"""
ASK_PORT = """
import socket, sys
host, port, timeout_s = sys.argv[1:]
try:
    socket.create_connection((host, int(port)), float(timeout_s)).close()
    print("SERVING")
except OSError as error:
    print(error)
"""


def answers(probe: Object, pod: Endpoint, container: Container, network: Network) -> bool:
    """Ask a pod once, from its own network: no policy keeps a node from its pods."""
    if "exec" in probe:
        return container.inside(*probe["exec"]["command"]).returncode == 0
    host, timeout_s = network.addresses[pod.name], str(probe.get("timeoutSeconds", 1))
    if "grpc" in probe:
        place, service = f"{host}:{probe['grpc']['port']}", probe["grpc"].get("service", "")
        question = [ASK_HEALTH, place, service, timeout_s]
    else:
        port = probe["tcpSocket"]["port"]
        question = [ASK_PORT, host, str(pod.ports.get(port, port)), timeout_s]
    return network.enter(pod.name, sys.executable, "-I", "-c", *question).strip() == "SERVING"
