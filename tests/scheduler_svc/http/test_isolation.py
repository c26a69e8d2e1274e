"""No route tells a tenant of another's jobs, files or batches, nor a stranger of anything."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.routing import Route

from scheduler_svc.frontend.batches import Batches
from scheduler_svc.http.app import App
from scheduler_svc.text.model_card import ModelCard
from stepserve.metrics.exposition import Exposition
from tests.scheduler_svc.access.tenants import Tenants, two_tenants
from tests.scheduler_svc.http.served import HttpServed, http_serving

CHAT = {"messages": [{"role": "user", "content": "hello"}]}


@dataclass
class Place:
    """What the rules have: the service, both keys, and what tenant a has there."""

    served: HttpServed
    tenants: Tenants
    response: str
    file: str
    batch: str

    @property
    def batches(self) -> Batches:
        assert self.served.front_end is not None
        return self.served.front_end.batches

    async def ask(
        self, method: str, path: str, key: str, body: Any = None, **headers: str
    ) -> httpx2.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if key:
            named["authorization"] = f"Bearer {key}"
        content = json.dumps(body) if body is not None else None
        return await self.served.http.request(method, path, content=content, headers=named)

    async def as_b(
        self, method: str, path: str, body: Any = None, **headers: str
    ) -> httpx2.Response:
        return await self.ask(method, path, self.tenants.b, body, **headers)


@pytest.fixture
async def place(redis_url: str, card: ModelCard, tmp_path: Path) -> AsyncIterator[Place]:
    tenants = two_tenants(tmp_path)
    async with http_serving(redis_url, card, keys_file=str(tenants.path)) as served:
        place = Place(served, tenants, "", "", "")
        asked = {"input": "hello", "background": True}
        place.response = (await place.ask("POST", "/v1/responses", tenants.a, asked)).json()["id"]
        place.file = await _uploaded(place, tenants.a)
        batch = {"input_file_id": place.file, "endpoint": "/v1/responses"}
        made = await place.ask(
            "POST", "/v1/batches", tenants.a, {**batch, "completion_window": "24h"}
        )
        place.batch = made.json()["id"]
        yield place


async def _uploaded(place: Place, key: str, num_lines: int = 1) -> str:
    lines = [{"custom_id": str(i), "body": {"input": "hello"}} for i in range(num_lines)]
    content = "\n".join(map(json.dumps, lines)).encode()
    answer = await place.served.http.post(
        "/v1/files",
        files={"file": ("lines.jsonl", content)},
        data={"purpose": "batch"},
        headers={"authorization": f"Bearer {key}"},
    )
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


def _absent(given: str) -> str:
    return given[:-1] + ("0" if given[-1] != "0" else "1")


def of_another(method: str, path: str, name: str) -> Callable[[Place], Awaitable[None]]:
    """The rule of a route that names a thing: another's is told of as one that is not there."""

    async def rule(place: Place) -> None:
        given = getattr(place, name)
        found = []
        for each in (given, _absent(given)):
            answer = await place.as_b(method, path.format(id=each))
            assert answer.status_code == 404, answer.text
            found.append(answer.text)
        assert found[0] == found[1].replace(_absent(given)[-32:], given[-32:])
        kept = await place.ask(
            "GET", path.format(id=given).removesuffix("/cancel"), place.tenants.a
        )
        assert kept.status_code == 200

    return rule


def not_listed(path: str, name: str) -> Callable[[Place], Awaitable[None]]:
    async def rule(place: Place) -> None:
        for key, is_there in ((place.tenants.a, True), (place.tenants.b, False)):
            listed = (await place.ask("GET", path, key)).json()["data"]
            assert (getattr(place, name) in [each["id"] for each in listed]) is is_there

    return rule


def about_no_job(method: str, path: str, body: Any = None) -> Callable[[Place], Awaitable[None]]:
    async def rule(place: Place) -> None:
        path_here = path.format(model=place.served.card.name)
        assert (await place.as_b(method, path_here, body)).status_code == 200

    return rule


def streamed(path: str, body: dict[str, Any]) -> Callable[[Place], Awaitable[None]]:
    """The rule of a route whose stream can be gone on with: another's can't, nor can its tenant be
    named, nor is its idempotency key another's.
    """

    async def rule(place: Place) -> None:
        asked = {**body, "stream": True}
        unique = place.response.removeprefix("resp_")
        answer = await place.as_b("POST", path, asked, last_event_id=f"{unique}:0-0")
        assert answer.status_code == 404, answer.text
        assert (await place.as_b("POST", path, asked, x_tenant="a")).status_code == 403

    return rule


def operators_only(path: str) -> Callable[[Place], Awaitable[None]]:
    """The rule of a route that shows everybody's work."""

    async def rule(place: Place) -> None:
        real = path.format(id=f"{place.served.card.name}~{place.response.removeprefix('resp_')}")
        answer = await place.as_b("GET", real)
        assert answer.status_code == 403, answer.text
        named = {"authorization": f"Bearer {place.tenants.operator}"}
        async with place.served.http.stream("GET", real, headers=named) as answer:
            assert answer.status_code == 200

    return rule


async def _create_response(place: Place) -> None:
    asked = {"input": "more", "background": True}
    answer = await place.as_b(
        "POST", "/v1/responses", {**asked, "previous_response_id": place.response}
    )
    assert answer.status_code == 404, answer.text
    assert (await place.as_b("POST", "/v1/responses", asked, x_tenant="a")).status_code == 403
    both = [
        (await place.ask("POST", "/v1/responses", key, asked, idempotency_key="same")).json()["id"]
        for key in (place.tenants.a, place.tenants.b)
    ]
    assert both[0] != both[1]


async def _create_batch(place: Place) -> None:
    asked = {"input_file_id": place.file, "endpoint": "/v1/responses", "completion_window": "24h"}
    assert (await place.as_b("POST", "/v1/batches", asked)).status_code == 404


async def _upload(place: Place) -> None:
    own = await _uploaded(place, place.tenants.b)
    assert (await place.ask("GET", f"/v1/files/{own}", place.tenants.a)).status_code == 404


RULES: dict[tuple[str, str], Callable[[Place], Awaitable[None]]] = {
    ("POST", "/v1/completions"): streamed("/v1/completions", {"prompt": "hello"}),
    ("POST", "/v1/chat/completions"): streamed("/v1/chat/completions", CHAT),
    ("POST", "/v1/responses"): _create_response,
    ("GET", "/v1/responses/{id}"): of_another("GET", "/v1/responses/{id}", "response"),
    ("DELETE", "/v1/responses/{id}"): of_another("DELETE", "/v1/responses/{id}", "response"),
    ("POST", "/v1/responses/{id}/cancel"): of_another(
        "POST", "/v1/responses/{id}/cancel", "response"
    ),
    ("POST", "/v1/files"): _upload,
    ("GET", "/v1/files"): not_listed("/v1/files", "file"),
    ("GET", "/v1/files/{id}"): of_another("GET", "/v1/files/{id}", "file"),
    ("DELETE", "/v1/files/{id}"): of_another("DELETE", "/v1/files/{id}", "file"),
    ("GET", "/v1/files/{id}/content"): of_another("GET", "/v1/files/{id}/content", "file"),
    ("POST", "/v1/batches"): _create_batch,
    ("GET", "/v1/batches"): not_listed("/v1/batches", "batch"),
    ("GET", "/v1/batches/{id}"): of_another("GET", "/v1/batches/{id}", "batch"),
    ("POST", "/v1/batches/{id}/cancel"): of_another("POST", "/v1/batches/{id}/cancel", "batch"),
    ("GET", "/v1/models"): about_no_job("GET", "/v1/models"),
    ("GET", "/v1/models/{name:path}"): about_no_job("GET", "/v1/models/{model}"),
    ("POST", "/tokenize"): about_no_job("POST", "/tokenize", {"prompt": "hello"}),
    ("POST", "/detokenize"): about_no_job("POST", "/detokenize", {"tokens": [5]}),
    ("GET", "/version"): about_no_job("GET", "/version"),
    ("GET", "/openapi.json"): about_no_job("GET", "/openapi.json"),
    ("GET", "/metrics"): operators_only("/metrics"),
    ("GET", "/ui/feed"): operators_only("/ui/feed"),
    ("GET", "/ui/jobs/{id}"): operators_only("/ui/jobs/{id}"),
}
# Probes have no key; these tell how the process is, in a status without a body.
PROBES = {("GET", "/health"), ("GET", "/ready"), ("GET", "/live"), ("GET", "/ping")}
# Nor has a browser that is to ask for one: the page's files are the same for everybody.
PAGE = {("GET", "/"), ("GET", "/ui/{name}")}


def _routes(place: Place) -> list[tuple[str, str]]:
    assert place.served.front_end is not None
    found = []
    for route in App(place.served.front_end, Exposition("stepserve")).routes():
        assert isinstance(route, Route)
        found += [(method, route.path) for method in (route.methods or set()) - {"HEAD"}]
    return found


def _page_file(path: str) -> bytes:
    name = path.removeprefix("/ui/").removeprefix("/") or "index.html"
    return files("scheduler_svc.http").joinpath("page", name).read_bytes()


async def test_every_route_has_a_rule(place: Place) -> None:
    """A route without one fails here: say in RULES how it keeps tenants apart."""
    assert sorted(_routes(place)) == sorted([*RULES, *PROBES, *PAGE])


async def test_a_tenant_sees_nothing_of_another(place: Place) -> None:
    for rule in RULES.values():
        await rule(place)


async def test_nobody_is_let_in_without_a_key(place: Place) -> None:
    for method, path in _routes(place):
        real = path.replace("{id}", place.response).replace("{name:path}", place.served.card.name)
        real = real.replace("{name}", "page.css")
        for key in ("", "sk-ss-none"):
            answer = await place.ask(method, real, key, {})
            if (method, path) in PROBES:
                assert (answer.status_code in (200, 503), answer.content) == (True, b"")
                continue
            if (method, path) in PAGE:
                assert answer.content == _page_file(real), real
                continue
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer"), path
            assert answer.json()["error"]["code"] == "invalid_api_key"


async def test_a_body_of_who_has_no_key_is_not_read(place: Place) -> None:
    """Else a stranger's would take memory, and time."""
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 64 * 1024 * 1024:
            yield bytes(65536)
            sent += 65536

    answer = await place.served.http.post("/v1/files", content=endless())
    assert answer.status_code == 401


async def test_an_operator_names_whom_it_likes(place: Place) -> None:
    for tenant, status in (("a", 200), ("b", 404)):
        path = f"/v1/responses/{place.response}"
        answer = await place.ask("GET", path, place.tenants.operator, x_tenant=tenant)
        assert answer.status_code == status


async def test_what_is_left_is_told_in_openai_s_headers(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler_svc.access.keyring.LOOK_INTERVAL_S", 0.0)
    key = place.tenants.another("b", requests_per_minute=2, tokens_per_minute=1000)
    asked = {"input": "hello", "background": True, "max_output_tokens": 10}
    answers = [await place.ask("POST", "/v1/responses", key, asked) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert [a.headers["x-ratelimit-remaining-requests"] for a in answers] == ["1", "0", "0"]
    assert {a.headers["x-ratelimit-limit-requests"] for a in answers} == {"2"}
    assert 900 < int(answers[0].headers["x-ratelimit-remaining-tokens"]) < 990
    assert answers[0].headers["x-ratelimit-reset-requests"].startswith(("29.", "30."))
    assert 1 <= int(answers[2].headers["retry-after"]) <= 30
    assert answers[2].json()["error"]["code"] == "rate_limit_exceeded"
    got = await place.ask("GET", "/v1/models", key)
    assert "x-ratelimit-limit-requests" not in got.headers


async def test_a_stream_tells_it_too(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scheduler_svc.access.keyring.LOOK_INTERVAL_S", 0.0)
    key = place.tenants.another("c", requests_per_minute=5)
    headers = {"authorization": f"Bearer {key}"}
    body = json.dumps({**CHAT, "stream": True})
    async with place.served.http.stream(
        "POST", "/v1/chat/completions", content=body, headers=headers
    ) as answer:
        assert answer.headers["x-ratelimit-remaining-requests"] == "4"


async def test_a_batch_counts_against_the_key_that_it_was_asked_with(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line at once; and none once the key is taken back."""
    monkeypatch.setattr("scheduler_svc.access.keyring.LOOK_INTERVAL_S", 0.0)
    first = await place.served.lane.claim()  # what tenant a asked for before
    key = place.tenants.another("c", max_jobs=1)
    file = await _uploaded(place, key, num_lines=2)
    asked = {"input_file_id": file, "endpoint": "/v1/responses", "completion_window": "24h"}
    batch = (await place.ask("POST", "/v1/batches", key, asked)).json()["id"]
    jobs = [first, await place.served.lane.claim(), await place.served.lane.claim()]
    [of_c] = [job for job in jobs if job.spec.tenant == "c"]
    assert await place.served.queue.num_queued() == 0
    place.tenants.remove(key)
    await place.served.say_in(of_c, "done")

    async def has_ended() -> bool:
        found = await place.batches.look(batch)
        return found is not None and found.status == "completed"

    await place.served.until(has_ended)
    ended = await place.batches.look(batch)
    assert ended is not None
    assert (ended.completed, ended.failed) == (1, 1)
