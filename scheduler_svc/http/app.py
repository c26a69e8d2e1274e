"""The routes, and what is the same for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeAlias

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from scheduler_svc.frontend.front_ends import FrontEnds
from scheduler_svc.frontend.own_jobs import OwnJobs
from scheduler_svc.http.batch_runner import BatchRunner
from scheduler_svc.http.batches import BatchRoutes
from scheduler_svc.http.body import Bodies, json_object
from scheduler_svc.http.call import Answer, Call, call_of
from scheduler_svc.http.door import Door, jobs_of, telling
from scheduler_svc.http.errors import ApiError, api_error, json_response
from scheduler_svc.http.files import MAX_FORM_BYTES, UPLOAD_TIMEOUT_S, FileRoutes
from scheduler_svc.http.live_page import LivePage
from scheduler_svc.http.loss import loss_of
from scheduler_svc.http.meter import CLIENT_LEFT, HttpMeter
from scheduler_svc.http.model_routes import ModelRoutes
from scheduler_svc.http.models import Models
from scheduler_svc.http.openapi import document
from scheduler_svc.http.operator import check_operator
from scheduler_svc.http.responses import Responses
from scheduler_svc.http.sse import OpenStreams
from scheduler_svc.spans.incoming import take_in
from stepserve.metrics.exposition import Exposition
from stepserve.process.version import own_version

Handler: TypeAlias = Callable[[Request], Awaitable[Answer]]


class Endpoint:
    """Answers a request in its own task, which ends with the connection; errors are answers.

    Who asks comes through the ``door`` first; where there is none, whoever it is.
    """

    def __init__(self, handler: Handler, path: str, door: Door | None, meter: HttpMeter) -> None:
        self._handler = handler
        self._path = path
        self._meter = meter
        self.door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        meter, method = self._meter, scope["method"]
        begun_s, status = meter.clock(), CLIENT_LEFT
        meter.num_open += 1
        try:
            with loss_of(scope).cancels_us():
                answer = await self._answer(Request(scope, receive))
                meter.begun(self._path, meter.clock() - begun_s)
                await answer(scope, receive, telling(scope, send))
                status = getattr(answer, "status_code", 200)
        finally:
            meter.num_open -= 1
            meter.answered(method, self._path, status, meter.clock() - begun_s)

    async def _answer(self, request: Request) -> Answer:
        try:
            if self.door is not None:
                self.door.enter(request)
            return await self._handler(request)
        except Exception as error:
            return api_error(error).response()


class Routes:
    """The routes as a server runs them; what none of them takes is refused as all errors are.

    Nothing else is around them: a stream's events would go through it one by one.
    """

    def __init__(self, routes: Sequence[Route], meter: HttpMeter) -> None:
        self._router = Router(routes)
        self._meter = meter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self  # The router raises what it refuses where there is one.
        try:
            await self._router(scope, receive, send)
        except HTTPException as error:
            await self._refused(scope, error)(scope, receive, send)

    def _refused(self, scope: Scope, error: HTTPException) -> Answer:
        """An unknown path, or another method."""
        what = f"{scope['method']} {Request(scope).url.path[:200]}"
        message = f"{what} is not served here" if error.status_code in (404, 405) else error.detail
        told = ApiError(error.status_code, message, code="unknown_url")
        told.headers = dict(error.headers or {})
        self._meter.refused(error.status_code)
        return told.response()


class App:
    """All routes over the front ends. ``metrics``: all that their process tells of itself."""

    def __init__(self, front_end: FrontEnds, metrics: Exposition) -> None:
        self._front_end = front_end
        self._door = Door(front_end)
        self._metrics = metrics
        self._rendering = asyncio.Lock()
        self._meter = HttpMeter()
        metrics.add(self._meter)
        self._bodies = Bodies()
        self.streams = OpenStreams()
        self._page = LivePage(front_end, self.streams)
        self._models = Models(front_end)
        self._of_models = ModelRoutes(front_end, self.streams)
        self._responses = Responses(front_end, self.streams)
        self._files = FileRoutes(front_end.files)
        self._batches = BatchRoutes(front_end.batches, front_end.files)
        self.runner = BatchRunner(
            front_end.batches,
            front_end.files,
            {
                "/v1/completions": self._of_models.whole_completion,
                "/v1/chat/completions": self._of_models.whole_chat,
                "/v1/responses": self._responses.complete,
            },
            self._door.later,
        )

    def asgi(self) -> ASGIApp:
        """Return it as a server runs it."""
        return Routes(self.routes(), self._meter)

    def routes(self) -> list[Route]:
        """Return all of them. Only those at the end are open to who shows no key."""
        tokenize = self._object(self._of_models.tokenize)
        detokenize = self._object(self._of_models.detokenize)
        route = self._route
        return [
            route("POST", "/v1/completions", self._posted(self._of_models.completion)),
            route("POST", "/v1/chat/completions", self._posted(self._of_models.chat)),
            route("GET", "/v1/models", self._list_models),
            route("GET", "/v1/models/{name:path}", self._one_model),
            route("POST", "/v1/responses", self._posted(self._responses.create)),
            route("GET", "/v1/responses/{id}", self._get_response),
            route("DELETE", "/v1/responses/{id}", _of_jobs(self._responses.delete)),
            route("POST", "/v1/responses/{id}/cancel", _of_jobs(self._responses.cancel)),
            *self._batch_routes(),
            *self._operators_routes(),
            route("POST", "/tokenize", tokenize),
            route("POST", "/detokenize", detokenize),
            route("GET", "/version", self._version),
            route("GET", "/openapi.json", self._openapi),
            self._open("GET", "/", self._page.index),
            self._open("GET", "/ui/{name}", self._page.file),
            self._open("GET", "/health", self._health),
            self._open("GET", "/ready", self._ready),
            self._open("GET", "/live", self._live),
            self._open("GET", "/ping", self._live),
        ]

    def _route(self, method: str, path: str, handler: Handler) -> Route:
        endpoint = Endpoint(handler, path, self._door, self._meter)
        return Route(path, endpoint=endpoint, methods=[method])

    def _open(self, method: str, path: str, handler: Handler) -> Route:
        """Return a route for probes and browsers: it tells how the process is, and no jobs."""
        endpoint = Endpoint(handler, path, None, self._meter)
        return Route(path, endpoint=endpoint, methods=[method])

    def _batch_routes(self) -> list[Route]:
        files, batches, route = self._files, self._batches, self._route
        return [
            route("POST", "/v1/files", self._upload),
            route("GET", "/v1/files", _listed(files.all)),
            route("GET", "/v1/files/{id}", _named(files.get)),
            route("DELETE", "/v1/files/{id}", _named(files.delete)),
            route("GET", "/v1/files/{id}/content", self._file_content),
            route("POST", "/v1/batches", self._create_batch),
            route("GET", "/v1/batches", _listed(batches.all)),
            route("GET", "/v1/batches/{id}", _named(batches.get)),
            route("POST", "/v1/batches/{id}/cancel", _named(batches.cancel)),
        ]

    def _operators_routes(self) -> list[Route]:
        """What shows everybody's work asks ``operator.py`` first; the page alone shows nothing."""
        return [
            self._route("GET", "/metrics", self._tell_metrics),
            self._route("GET", "/ui/feed", self._page.feed),
            self._route("GET", "/ui/jobs/{id}", self._page.job),
        ]

    async def _tell_metrics(self, request: Request) -> Answer:
        check_operator(request)
        async with self._rendering:  # one at a time: threads are few, and prompts need them
            page = await asyncio.to_thread(self._metrics.render)
        return Response(page.body, media_type=page.content_type)

    async def _upload(self, request: Request) -> Answer:
        async with self._bodies.form(request, MAX_FORM_BYTES, UPLOAD_TIMEOUT_S) as form:
            return json_response(await self._files.create(form, jobs_of(request).tenant))

    async def _file_content(self, request: Request) -> Answer:
        return await self._files.content(request.path_params["id"], jobs_of(request).tenant)

    async def _create_batch(self, request: Request) -> Answer:
        async with self._bodies.read(request) as body:
            given = json_object(body)
        jobs = jobs_of(request)
        return json_response(await self._batches.create(given, jobs.tenant, jobs.key_id))

    def _posted(self, answer: Callable[[Call], Awaitable[Answer]]) -> Handler:
        async def handle(request: Request) -> Answer:
            self._take_in_trace(request)
            async with self._bodies.read(request) as body:
                call = call_of(request, json_object(body))
            return await answer(call)

        return handle

    def _object(self, answer: Callable[[dict[str, Any]], Awaitable[Any]]) -> Handler:
        async def handle(request: Request) -> Answer:
            async with self._bodies.read(request) as body:
                return json_response(await answer(json_object(body)))

        return handle

    async def _list_models(self, _request: Request) -> Answer:
        return json_response(await self._models.all())

    async def _one_model(self, request: Request) -> Answer:
        return json_response(await self._models.one(request.path_params["name"]))

    def _take_in_trace(self, request: Request) -> None:
        if self._front_end.is_traced:
            take_in(request.headers)

    async def _get_response(self, request: Request) -> Answer:
        self._take_in_trace(request)
        response_id, asked = request.path_params["id"], request.query_params
        if asked.get("stream", "").lower() in ("true", "1"):
            after = asked.get("starting_after", "")
            return await self._responses.follow(response_id, call_of(request, {}), after)
        return json_response(await self._responses.get(response_id, jobs_of(request)))

    async def _health(self, _request: Request) -> Answer:
        """Whether jobs are taken."""
        return _state(self._front_end.readiness.takes_jobs)

    async def _ready(self, _request: Request) -> Answer:
        """Whether jobs are taken, and computed by some worker."""
        return _state(self._front_end.readiness.computes)

    async def _live(self, _request: Request) -> Answer:
        """Whether this process answers."""
        return _state(is_well=True)

    async def _openapi(self, _request: Request) -> Answer:
        return json_response(document())

    async def _version(self, _request: Request) -> Answer:
        return json_response({"version": own_version()})


def _named(answer: Callable[[str, str], Awaitable[Any]]) -> Handler:
    """Return what answers for one of something, of the caller's own."""

    async def handle(request: Request) -> Answer:
        return json_response(await answer(request.path_params["id"], jobs_of(request).tenant))

    return handle


def _of_jobs(answer: Callable[[str, OwnJobs], Awaitable[Any]]) -> Handler:
    """Return what answers for one of the caller's jobs."""

    async def handle(request: Request) -> Answer:
        return json_response(await answer(request.path_params["id"], jobs_of(request)))

    return handle


def _listed(answer: Callable[[Mapping[str, str], str], Awaitable[Any]]) -> Handler:
    """Return what answers with a page of a list, of the caller's own."""

    async def handle(request: Request) -> Answer:
        return json_response(await answer(request.query_params, jobs_of(request).tenant))

    return handle


def _state(is_well: bool) -> Response:
    return Response(status_code=200 if is_well else 503)
