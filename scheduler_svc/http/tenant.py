"""Whose a request is: asked here and nowhere else."""

from __future__ import annotations

from starlette.requests import Request

from scheduler_svc.frontend.validate import MAX_TENANT_CHARS
from scheduler_svc.http.errors import ApiError

TENANT_HEADER = "x-tenant"


def tenant_of(request: Request) -> str:
    """Return the tenant that a request speaks for; it is believed, as gRPC's field is.

    Raises ApiError where it is no name.
    """
    tenant = request.headers.get(TENANT_HEADER, "")
    if len(tenant) > MAX_TENANT_CHARS:
        raise ApiError(400, f"{TENANT_HEADER} has more than {MAX_TENANT_CHARS} characters")
    return tenant
