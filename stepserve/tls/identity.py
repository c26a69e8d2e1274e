"""Who we are and whom we believe, in TLS: PEM files of a certificate, its key, and an authority."""

from __future__ import annotations

import ssl
from dataclasses import dataclass

from stepserve.protocol.errors import StepserveError
from stepserve.tls.watched import read_secret


@dataclass(frozen=True, slots=True)
class Material:
    """What the files hold; nothing where there is no such file."""

    certificate: bytes
    key: bytes
    authority: bytes

    @property
    def pair(self) -> tuple[bytes, bytes]:
        """The key and its certificate chain, in gRPC's order."""
        return self.key, self.certificate


@dataclass(frozen=True, slots=True)
class Identity:
    """The files' paths; "" where there is none. ``authority`` signs those whom we believe.

    ``names`` are what users call the three.
    """

    certificate: str = ""
    key: str = ""
    authority: str = ""
    names: tuple[str, str, str] = ("the certificate", "its key", "the authority")

    @property
    def paths(self) -> tuple[str, str, str]:
        return self.certificate, self.key, self.authority

    def read(self) -> Material:
        """Return what they hold. Raises StepserveError where it is of no use."""
        certificate, key, _ = self.names
        if bool(self.certificate) != bool(self.key):
            raise StepserveError(f"{certificate} and {key} go together: one of them is missing")
        if self.certificate:
            self._check_pair()
        if self.authority:
            self._check_authority()
        return Material(
            _content(self.certificate, "certificate"),
            _content(self.key, "key"),
            _content(self.authority, "authority"),
        )

    def check_server(self) -> None:
        """Raise StepserveError where nothing could be served with the files."""
        self.read()
        if not self.certificate:
            certificate, key, authority = self.names
            raise StepserveError(f"{authority} needs {certificate} and {key} here")

    def server_context(self) -> ssl.SSLContext:
        """Return what a server speaks TLS by. Raises StepserveError."""
        self.check_server()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        context.load_cert_chain(self.certificate, self.key)
        if self.authority:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.authority)
        return context

    def _check_pair(self) -> None:
        for path, what in ((self.certificate, "certificate"), (self.key, "key")):
            read_secret(path, what)
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
                self.certificate, self.key, password=_no_password
            )
        except (ssl.SSLError, ValueError) as error:
            problem = getattr(error, "reason", None) or error
            raise StepserveError(
                f"certificate {self.certificate} and key {self.key} can't be used: {problem}"
            ) from None

    def _check_authority(self) -> None:
        read_secret(self.authority, "authority")
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(self.authority)
        except ssl.SSLError as error:
            raise StepserveError(
                f"authority {self.authority} can't be used: {error.reason}"
            ) from None


def _content(path: str, what: str) -> bytes:
    return read_secret(path, what) if path else b""


def _no_password() -> str:
    """Asked for where a key is encrypted: OpenSSL would ask at the terminal."""
    raise ValueError("the key is encrypted")
