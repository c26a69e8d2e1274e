"""A service of a few lines for the supervisor: it serves a port, and does what it is told.

``python -m ...small_service [--dies | --stalls | --slow-end | --odd-name | --healthy]
--port=P``
"""

from __future__ import annotations

import signal
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
from grpc_health.v1 import health, health_pb2_grpc


def main() -> None:
    flags = [argument for argument in sys.argv[1:] if not argument.startswith("--port=")]
    [port] = [int(argument[7:]) for argument in sys.argv[1:] if argument.startswith("--port=")]
    print("not the ready line", flush=True)
    if "--dies" in flags:
        sys.exit(7)
    if "--slow-end" in flags:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "--healthy" in flags:
        serve_health(port)
    with socket.create_server(("127.0.0.1", port)) as server:
        if "--stalls" not in flags:
            address = f"127.0.0.1:{server.getsockname()[1]}"
            name = "naïve 模" if "--odd-name" in flags else "My  Model "
            print(f"ready worker={address} blocks=3 model={name}", flush=True)
        while True:
            time.sleep(3600)


def serve_health(port: int) -> None:
    """Say that all is well, over gRPC, for as long as this process runs."""
    server = grpc.server(ThreadPoolExecutor(1))
    health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    print(f"ready worker=127.0.0.1:{port} blocks=3 model=My  Model ", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
