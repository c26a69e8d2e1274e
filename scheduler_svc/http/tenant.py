"""Whose a request is: asked here and nowhere else."""

from __future__ import annotations

from starlette.requests import Request

TENANT_HEADER = "x-tenant"


def tenant_of(request: Request) -> str:
    """Return the tenant that a request speaks for; it is believed, as gRPC's field is."""
    return request.headers.get(TENANT_HEADER, "")
