"""Certificates of an authority that nobody else has, in files as a Secret's."""

from __future__ import annotations

from pathlib import Path

import trustme

from stepserve.tls.identity import Identity


class Authority:
    """Signs certificates, and writes what each side needs into a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._ca = trustme.CA()
        self.path = str(directory / "ca.crt")
        directory.mkdir(parents=True, exist_ok=True)
        self._ca.cert_pem.write_to_path(self.path)

    def identity(self, *names: str, authority: str | None = None) -> Identity:
        """Write a certificate for these names; it believes this authority, or another one."""
        where = self._directory / "-".join(names).replace("/", "_")
        where.mkdir(exist_ok=True)
        self.renew(where, *names)
        believed = self.path if authority is None else authority
        return Identity(str(where / "tls.crt"), str(where / "tls.key"), believed)

    def replace_with(self, other: Authority) -> None:
        """Put another authority where this one is believed."""
        Path(f"{self.path}.new").write_bytes(Path(other.path).read_bytes())
        Path(f"{self.path}.new").replace(self.path)

    def renew(self, where: Path, *names: str) -> None:
        """Put another certificate where one is, each file whole at every moment."""
        made = self._ca.issue_cert(*names)
        chain = b"".join(blob.bytes() for blob in made.cert_chain_pems)
        for name, content in (("tls.crt", chain), ("tls.key", made.private_key_pem.bytes())):
            fresh = where / f"{name}.new"
            fresh.write_bytes(content)
            fresh.replace(where / name)
