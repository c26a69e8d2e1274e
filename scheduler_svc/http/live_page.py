"""The live page at ``/``: its files, and the feed that it draws."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from hashlib import sha256
from importlib.resources import files
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from scheduler_svc.frontend.front_end import FrontEnd
from scheduler_svc.frontend.front_ends import FrontEnds
from scheduler_svc.http import sse
from scheduler_svc.http.call import Answer
from scheduler_svc.http.errors import json_response, not_found
from scheduler_svc.http.operator import check_operator

INDEX = "index.html"
_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
# Nothing from elsewhere, nothing inline, and nobody's frame.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    # Always asked for again, and mostly answered that it is the same.
    "cache-control": "no-cache",
}


class _File(NamedTuple):
    body: bytes
    content_type: str
    tag: str


class LivePage:
    """Serves the page to everybody, and what it shows to operators: see ``operator.py``."""

    def __init__(self, front_ends: FrontEnds, streams: sse.OpenStreams) -> None:
        self._front_ends = front_ends
        self._streams = streams
        self._files = _load()

    async def index(self, request: Request) -> Answer:
        """Return the page."""
        return self._file(request, INDEX)

    async def file(self, request: Request) -> Answer:
        """Return one of its files. Raises ApiError for any other."""
        return self._file(request, request.path_params["name"])

    async def feed(self, request: Request) -> Answer:
        """Return what happens to the query's ``model``, or the first, as a stream of events.

        Raises ApiError.
        """
        check_operator(request)
        front_end = self._front_ends.shown(request.query_params.get("model", ""))
        return sse.EventStream(self._events(front_end), self._streams)

    async def job(self, request: Request) -> Answer:
        """Return how a job stands, whoever's it is. Raises ApiError."""
        check_operator(request)
        return json_response(await self._front_ends.life(request.path_params["id"]))

    async def _events(self, front_end: FrontEnd) -> AsyncGenerator[bytes, None]:
        models = [each.model for each in self._front_ends.all]
        yield sse.event({"model": front_end.model, "models": models}, name="hello")
        async with aclosing(front_end.live.look()) as seen:
            async for kind, data in seen:
                yield f"event: {kind}\ndata: {data}\n\n".encode()

    def _file(self, request: Request, name: str) -> Answer:
        found = self._files.get(name)
        if found is None:
            raise not_found(f"{name[:100]!r}")
        headers = {**_HEADERS, "etag": found.tag}
        if request.headers.get("if-none-match") == found.tag:
            return Response(status_code=304, headers=headers)
        return Response(found.body, headers=headers, media_type=found.content_type)


def _load() -> dict[str, _File]:
    found = {}
    for each in files("scheduler_svc.http").joinpath("page").iterdir():
        kind = _TYPES.get(each.name.rpartition(".")[2])
        if kind is not None:
            body = each.read_bytes()
            found[each.name] = _File(body, kind, f'"{sha256(body).hexdigest()[:16]}"')
    return found
