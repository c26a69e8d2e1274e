"""An API key as it is kept: its digest, whose it is, and what it may."""

from __future__ import annotations

import hashlib
import secrets
from datetime import UTC, datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

MAX_TENANT_CHARS = 128
MAX_PRIORITY = 10
PREFIX = "sk-ss-"
_ID_BYTES, _SECRET_BYTES = 6, 32
# No key is longer; what is, is not hashed.
MAX_KEY_CHARS = 256


class ApiKey(BaseModel):
    """``key_id`` is its public part: it may be shown and logged. 0 in a bound: there is none.

    ``weight`` counts under the policy fair, in place of the tenant's in --tenant-weights.
    Each bound is this key's own, over all replicas, for each model. An operator's key may name
    any tenant, and sees the jobs of all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    key_id: Annotated[str, Field(pattern=r"^[0-9a-z]{6,32}$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    tenant: Annotated[str, Field(min_length=1, max_length=MAX_TENANT_CHARS)]
    weight: Annotated[float, Field(ge=0.001, le=1000)] | None = None
    requests_per_minute: Annotated[int, Field(ge=0, le=10**9)] = 0
    tokens_per_minute: Annotated[int, Field(ge=0, le=10**12)] = 0
    max_jobs: Annotated[int, Field(ge=0, le=10**9)] = 0
    max_priority: Annotated[int, Field(ge=-MAX_PRIORITY, le=MAX_PRIORITY)] = MAX_PRIORITY
    is_operator: bool = False
    created: str = ""


def digest_of(secret: str) -> str:
    """Return what is kept of a key. It has 256 bits of chance: a plain hash tells nothing."""
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()


def new_key(tenant: str, **fields: object) -> tuple[str, ApiKey]:
    """Return a key that nobody has, as it is shown once, and as it is kept.

    Raises pydantic's ValidationError where a field is out of bounds.
    """
    key_id = secrets.token_hex(_ID_BYTES)
    secret = f"{PREFIX}{key_id}-{secrets.token_urlsafe(_SECRET_BYTES)}"
    created = datetime.now(UTC).isoformat(timespec="seconds")
    kept = ApiKey.model_validate(
        {
            "key_id": key_id,
            "sha256": digest_of(secret),
            "tenant": tenant,
            "created": created,
            **fields,
        }
    )
    return secret, kept
