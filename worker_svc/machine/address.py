"""Whether an address can be served on, asked before a model is loaded for minutes."""

from __future__ import annotations

import socket
from typing import Any

from stepserve.protocol.errors import StepserveError


def check_address(host: str, port: int) -> None:
    """Raise StepserveError where nothing can listen on ``host``, a name or number, and ``port``."""
    try:
        addresses = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise StepserveError(f"{host}:{port} can't be served on: {error.strerror}") from error
    problems = [_problem(family, address) for family, _, _, _, address in addresses]
    if all(problems):
        raise StepserveError(f"{host}:{port} can't be served on: {problems[0]}")


def _problem(family: int, address: tuple[Any, ...]) -> str:
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # Connections that have just been closed do not take an address.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            return error.strerror or str(error)
    return ""
