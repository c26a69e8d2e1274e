"""What is not there is called as it was asked for, never by a name that only we have."""

from __future__ import annotations

import re

import pytest

from tests.scheduler_svc.http.served import HttpServed

# What an id is called by, in each room that has some.
PREFIXES = {"responses": "resp_", "files": "file-", "batches": "batch_"}


async def routes_with_ids(served: HttpServed) -> list[tuple[str, str]]:
    """Return the methods and paths that name something by its id, as our own document has them."""
    paths = (await served.http.get("/openapi.json")).json()["paths"]
    return [
        (method.upper(), path)
        for path, methods in paths.items()
        for method in methods
        if "{id}" in path and not path.startswith("/v1/models")
    ]


async def test_every_route_tells_the_id_that_was_asked_for(served: HttpServed) -> None:
    routes = await routes_with_ids(served)
    assert len(routes) == 8
    for method, path in routes:
        kind = path.split("/")[2]
        for unique in ("0" * 32, "0" * 24, "nonsense", "x" * 90):
            given = f"{PREFIXES[kind]}{unique}"
            answer = await served.http.request(method, path.replace("{id}", given))
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (404, "not_found"), path
            one = {"responses": "response", "files": "file", "batches": "batch"}[kind]
            assert error["message"] == f"{one} {given!r} is not known here", (method, path)


@pytest.mark.parametrize(
    ("path", "body", "headers", "param"),
    [
        ("/v1/responses", {"input": "x"}, {}, "previous_response_id"),
        ("/v1/batches", {"endpoint": "/v1/completions"}, {}, "input_file_id"),
        ("/v1/completions", {"prompt": "x", "stream": True}, {"last_event_id": ""}, ""),
    ],
)
async def test_a_field_that_names_nothing_is_named(
    served: HttpServed, path: str, body: dict[str, object], headers: dict[str, str], param: str
) -> None:
    given = {"previous_response_id": f"resp_{'0' * 32}", "input_file_id": "file-none"}
    asked = given.get(param, f"{'0' * 32}:1-1")
    named = {param: asked} if param else {}
    answer = await served.post(path, {**body, **named}, **dict.fromkeys(headers, asked))
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (404, param or "last_event_id")
    assert f"{asked!r} is not known here" in error["message"]


async def test_a_response_of_another_kind_is_called_by_its_own_id(served: HttpServed) -> None:
    body = {"prompt": "x", "stream": True}
    streamed = served.http.stream("POST", "/v1/completions", json=body)
    async with streamed as stream:
        job = await served.lane.claim()
        await served.say_in(job, "yes")
        await stream.aread()
    given = f"resp_{job.spec.job_id.rpartition('~')[2]}"
    for method, path in await routes_with_ids(served):
        if path.startswith("/v1/responses"):
            answer = await served.http.request(method, path.replace("{id}", given))
            told = answer.json()["error"]["message"]
            assert told == f"response {given!r} is not known here"
            assert not re.search("~", answer.text)
