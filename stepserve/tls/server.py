"""A server's side of TLS, whose certificates are read again when their files change."""

from __future__ import annotations

import logging
import ssl
import threading

import grpc

from stepserve.protocol.errors import StepserveError
from stepserve.tls.identity import Identity, Material
from stepserve.tls.watched import WatchedFiles

log = logging.getLogger(__name__)


def server_tls(identity: Identity) -> ServerTls | None:
    """Return what a server with these files speaks TLS by; None where there are none.

    Raises StepserveError where they are of no use.
    """
    return ServerTls(identity) if any(identity.paths) else None


class ServerTls:
    """One identity for gRPC and HTTP. Where it has an authority, clients must show a certificate.

    Files that are of no use leave what was there before in use, and say so in the log.
    """

    def __init__(self, identity: Identity) -> None:
        """Raise StepserveError where the files are of no use."""
        identity.check_server()
        self._identity = identity
        self._material = identity.read()
        self._of_grpc = WatchedFiles(identity.paths)
        self._of_context = WatchedFiles(identity.paths)
        self._of_grpc.look()
        self._lock = threading.Lock()

    @property
    def asks_for_certificates(self) -> bool:
        """Whether a client is known by a certificate."""
        return bool(self._identity.authority)

    def credentials(self) -> grpc.ServerCredentials:
        """Return gRPC's, which look at the files with each connection."""
        made: grpc.ServerCredentials = grpc.dynamic_ssl_server_credentials(
            _configuration(self._material),
            self._renewed,  # type: ignore[arg-type]  # None is what gRPC documents for no change
            self.asks_for_certificates,
        )
        return made

    def context(self) -> ssl.SSLContext:
        """Return a context of the files as they are. Raises StepserveError."""
        self._of_context.look()
        return self._identity.server_context()

    def new_context(self) -> ssl.SSLContext | None:
        """Return another context where the files have changed and are good."""
        if not self._of_context.look():
            return None
        try:
            context = self._identity.server_context()
        except StepserveError as error:
            log.error("certificates are not renewed for HTTP: %s", error)
            return None
        log.info("certificates are renewed for HTTP")
        return context

    def _renewed(self) -> grpc.ServerCertificateConfiguration | None:
        """Called by gRPC's threads, for each connection; None: what was there before."""
        try:
            with self._lock:
                if not self._of_grpc.look():
                    return None
                self._material = self._identity.read()
        except StepserveError as error:
            log.error("certificates are not renewed for gRPC: %s", error)
            return None
        log.info("certificates are renewed for gRPC")
        return _configuration(self._material)


def _configuration(material: Material) -> grpc.ServerCertificateConfiguration:
    made: grpc.ServerCertificateConfiguration = grpc.ssl_server_certificate_configuration(
        [material.pair], material.authority or None
    )
    return made
