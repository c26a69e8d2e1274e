"""Who may see everybody's work: asked here and nowhere else."""

from __future__ import annotations

from starlette.requests import Request


def check_operator(_request: Request) -> None:
    """Return where a request may see the work of all tenants. Raises ApiError where not.

    While there are no keys everybody may, as everybody may name any tenant. With keys this is
    where the caller's is asked for: the page sends it as ``Authorization: Bearer``.
    """
