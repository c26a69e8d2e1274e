"""Two tenants with a key each, and an operator."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from scheduler_svc.access.api_key import PREFIX, new_key
from scheduler_svc.access.key_file import add_key, remove_key


@dataclass(frozen=True)
class Tenants:
    """The file of their keys, and the keys."""

    path: Path
    a: str
    b: str
    operator: str

    def another(self, tenant: str, **fields: object) -> str:
        """Add a key, and return it."""
        return added(self.path, tenant, **fields)

    def remove(self, key: str) -> None:
        """Take a key back."""
        remove_key(self.path, key.removeprefix(PREFIX).partition("-")[0])


def added(path: Path, tenant: str, **fields: object) -> str:
    secret, key = new_key(tenant, **fields)
    add_key(path, key)
    return secret


def two_tenants(directory: Path) -> Tenants:
    path = directory / "keys.json"
    keys = added(path, "a"), added(path, "b"), added(path, "ops", is_operator=True)
    return Tenants(path, *keys)
