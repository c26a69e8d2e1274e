"""Where the service is, and whether it is there at all: of every client command."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ClassVar

from pydantic import Field, field_validator

from stepserve.client.blocking import Client
from stepserve.client.errors import Unreached
from stepserve.client.retry import RetryPolicy
from stepserve.client.unreached import NO_ADDRESS, NOT_GRPC, NOTHING_LISTENS
from stepserve.commands.access import ClientAccess
from stepserve.process.variables import FROM_ENVIRONMENT
from stepserve.protocol.errors import StepserveError, Unauthenticated, first_line

DEFAULT_TARGET = "localhost:50051"
# A person waits for it.
REACH_TIMEOUT_S = 1.2
# Where nothing listens: one that is started again at this moment will be found.
REFUSED_TIMEOUT_S = 0.5
SAY_AFTER_S = 1.0
_LISTENS_TIMEOUT_S = 0.1
# Of gRPC's other forms, which are its own to judge.
_SCHEMES = ("dns:", "ipv4:", "ipv6:", "unix:", "unix-abstract:", "xds:")

ADVICE = (
    "Start one with `stepserve up --model DIR`, or say where one is with --target HOST:PORT "
    "or STEPSERVE_TARGET; where it speaks TLS, --tls or --tls-ca FILE as well."
)
UNTRUSTED = (
    "Perhaps it speaks no TLS, its certificate is for another name or signed by an "
    "authority that is not in --tls-ca, or it asks for a certificate (--tls-cert, --tls-key)."
)


class Waiting:
    """Says once, each time it comes to that, that a service is waited for, by however many."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._said_s = float("-inf")

    def __call__(self, error: StepserveError, failing_s: float) -> None:
        """Take note of a failure, that of something which fails for so long by now."""
        now_s = self._clock()
        if failing_s >= SAY_AFTER_S and self._said_s < now_s - failing_s:
            self._said_s = now_s
            told = f"stepserve: {first_line(error)}; trying again for a minute ..."
            print(told, file=sys.stderr, flush=True)


class Targeted(ClientAccess):
    """A service that is asked."""

    model_config = FROM_ENVIRONMENT
    HELP_GROUP: ClassVar[str] = "service"

    target: str = Field(
        DEFAULT_TARGET, description="a scheduler's HOST:PORT, or IP:PORT,IP:PORT of replicas"
    )

    @field_validator("target")
    @classmethod
    def _names_ports(cls, value: str) -> str:
        for address in filter(None, value.split(",")):
            host, _, port = address.strip().rpartition(":")
            is_address = bool(host) and port.isdigit() and "/" not in host
            if not is_address and not address.startswith(_SCHEMES):
                known = "the port is gRPC's, 50051 unless --port says otherwise"
                raise ValueError(f"{address[:200]!r} is not HOST:PORT; {known}")
        return value

    @contextmanager
    def client(self) -> Iterator[Client]:
        """Yield a client for which something answers. Raises Unreached where nothing does.

        What goes wrong later is tried again for a while, and said on standard error.
        """
        policy = RetryPolicy(tell=Waiting())
        credentials, key = self.credentials(), self.api_key.get_secret_value()
        with Client(self.target, policy, credentials, api_key=key) as client, self.explained():
            client.reach(REACH_TIMEOUT_S, REFUSED_TIMEOUT_S)
            yield client

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Say what to do where no service answers, or it asks for a key."""
        try:
            yield
        except Unreached as error:
            why = error.why
            if why == NOTHING_LISTENS and _listens(self.target):
                why = NOT_GRPC  # gRPC tells of the last of a name's addresses only
            is_absent = self.credentials() is None or why in (NOTHING_LISTENS, NO_ADDRESS)
            hint = ADVICE if is_absent else UNTRUSTED
            raise Unreached(f"{why}. {hint}", self.target) from None
        except Unauthenticated as error:
            raise Unauthenticated(f"{error}; give --api-key or STEPSERVE_API_KEY") from None


def _listens(target: str) -> bool:
    """Whether something takes connections at HOST:PORT, whatever it speaks."""
    if "," in target:
        return False  # several: no one of them stands for all
    host, _, port = target.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_LISTENS_TIMEOUT_S).close()
    except (OSError, ValueError, OverflowError):
        return False
    return True


class Connection(Targeted):
    """Where the service is, and for whom its answers are."""

    model_config = FROM_ENVIRONMENT
    HELP_GROUP: ClassVar[str] = "service"

    as_json: bool = Field(False, description="print JSON, for programs")

    def same_target(self) -> str:
        """Return what another command needs to find the same service: nothing by default."""
        given = "" if self.target == DEFAULT_TARGET else f" --target {self.target}"
        for flag in ("tls_ca", "tls_cert", "tls_key"):
            if path := getattr(self, flag):
                given += f" --{flag.replace('_', '-')} {path}"
        return given + (" --tls" if self.tls else "")
