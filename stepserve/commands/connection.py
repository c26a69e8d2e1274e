"""Where the service is, and whether it is there at all: of every client command."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from pydantic import Field

from stepserve.client.blocking import Client
from stepserve.client.retry import RetryPolicy
from stepserve.commands.access import ClientAccess
from stepserve.process.variables import FROM_ENVIRONMENT
from stepserve.protocol.errors import (
    StepserveError,
    Unauthenticated,
    Unavailable,
    first_line,
)

DEFAULT_TARGET = "localhost:50051"
# A person waits for it; one who starts a service at the same moment will find it in that time.
REACH_TIMEOUT_S = 1.5
SAY_AFTER_S = 1.0


ADVICE = (
    "Start one with `stepserve up --model DIR`, or say where one is with --target HOST:PORT "
    "or STEPSERVE_TARGET; where it speaks TLS, --tls or --tls-ca FILE as well."
)
UNTRUSTED = (
    "Nothing serves there, it speaks no TLS, its certificate is for another name or signed by an "
    "authority that is not in --tls-ca, or it asks for a certificate (--tls-cert, --tls-key)."
)


class Waiting:
    """Says once, each time it comes to that, that a service is waited for."""

    def __init__(self) -> None:
        self._has_said = False

    def __call__(self, error: StepserveError, failing_s: float) -> None:
        """Take note of a failure, that of something which fails for so long by now."""
        if failing_s < SAY_AFTER_S:
            self._has_said = False
        elif not self._has_said:
            self._has_said = True
            told = f"stepserve: {first_line(error)}; trying again for a minute ..."
            print(told, file=sys.stderr, flush=True)


class Connection(ClientAccess):
    """Where the service is."""

    model_config = FROM_ENVIRONMENT
    HELP_GROUP: ClassVar[str] = "service"

    target: str = Field(
        DEFAULT_TARGET, description="a scheduler's HOST:PORT, or IP:PORT,IP:PORT of replicas"
    )
    as_json: bool = Field(False, description="print JSON, for programs")

    @contextmanager
    def client(self) -> Iterator[Client]:
        """Yield a client for which something answers. Raises Unavailable where nothing does.

        What goes wrong later is tried again for a while, and said on standard error.
        """
        policy = RetryPolicy(tell=Waiting())
        credentials, key = self.credentials(), self.api_key.get_secret_value()
        with Client(self.target, policy, credentials, api_key=key) as client:
            if not client.is_reached(REACH_TIMEOUT_S):
                hint = UNTRUSTED if credentials is not None else ADVICE
                raise Unavailable(f"no service answers at {self.target}. {hint}")
            try:
                yield client
            except Unauthenticated as error:
                raise Unauthenticated(f"{error}; give --api-key or STEPSERVE_API_KEY") from None

    def same_target(self) -> str:
        """Return what another command needs to find the same service: nothing by default."""
        given = "" if self.target == DEFAULT_TARGET else f" --target {self.target}"
        for flag in ("tls_ca", "tls_cert", "tls_key"):
            if path := getattr(self, flag):
                given += f" --{flag.replace('_', '-')} {path}"
        return given + (" --tls" if self.tls else "")
