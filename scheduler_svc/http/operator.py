"""Who may see everybody's work: asked here and nowhere else."""

from __future__ import annotations

from starlette.requests import Request

from scheduler_svc.http.door import jobs_of


def check_operator(request: Request) -> None:
    """Return where a request may see the work of all tenants. Raises Forbidden where not.

    While there are no keys everybody may, as everybody may name any tenant. With keys it is an
    operator's that is asked for: the page sends it as ``Authorization: Bearer``.
    """
    jobs_of(request).caller.check_operator()
