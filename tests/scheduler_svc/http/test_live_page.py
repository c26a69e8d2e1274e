"""The live page's files as they are served, and its feed."""

from __future__ import annotations

import asyncio
import json
import re
from importlib.resources import files

from tests.scheduler_svc.http.served import HttpServed

FILES = {each.name: each for each in files("scheduler_svc.http").joinpath("page").iterdir()}
WAIT_S = 20.0


async def test_the_page_is_served_under_a_strict_policy(served: HttpServed) -> None:
    answer = await served.http.get("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    again = await served.http.get("/", headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    for name, each in FILES.items():
        found = await served.http.get(f"/ui/{name}")
        assert found.content == each.read_bytes()
        assert found.headers["content-security-policy"] == policy
        assert found.headers["x-content-type-options"] == "nosniff"
    for name in ("no.js", "..%2Fapp.py", "%2e%2e/app.py", "app.py", ""):
        missing = await served.http.get(f"/ui/{name}")
        assert missing.status_code == 404


def test_the_page_needs_nothing_from_elsewhere_and_nothing_inline() -> None:
    page = FILES["index.html"].read_text()
    assert not re.search(r"<style|<script[^>]*>[^<]|\sstyle=|\son\w+=", page), (
        "the policy refuses it"
    )
    named = set(re.findall(r'(?:src|href)="/ui/([^"]+)"', page))
    for name, each in FILES.items():
        text = each.read_text()
        assert set(re.findall(r"https?://([\w.]+)", text)) <= {"www.w3.org"}, name
        assert "innerHTML" not in text, "what others wrote is text"
        named |= set(re.findall(r'from "\./([^"]+)"', text))
    assert named | {"index.html"} == set(FILES), (
        "all that is there is used, and the other way round"
    )


def test_every_part_that_is_drawn_is_there() -> None:
    ids = set(re.findall(r'\sid="([^"]+)"', FILES["index.html"].read_text()))
    assert len(ids) > 30
    for name, each in FILES.items():
        for used in re.findall(r'\$\("([^"]+)"\)', each.read_text()):
            assert used in ids, f"{name} looks for {used}"


def test_what_is_asked_has_a_label() -> None:
    page = FILES["index.html"].read_text()
    for field in re.findall(r"<(?:input|textarea|select)[^>]*", page):
        [field_id] = re.findall(r'id="([^"]+)"', field)
        around = page[: page.index(field)].rpartition("<label")[2]
        assert f'for="{field_id}"' in page or "</label>" not in around, field


async def test_the_feed_tells_of_jobs_as_they_are(served: HttpServed) -> None:
    made = await served.post("/v1/responses", {"input": "Hi", "background": True}, x_tenant="acme")
    unique = made.json()["id"].removeprefix("resp_")
    async with (
        asyncio.timeout(WAIT_S),
        served.http.stream("GET", "/ui/feed") as answer,
    ):
        assert answer.headers["content-type"].startswith("text/event-stream")
        told = {}
        async for line in answer.aiter_lines():
            if line.startswith("event: "):
                kind = line[7:]
            elif line.startswith("data: "):
                told[kind] = json.loads(line[6:])
            if "state" in told:
                break
    assert told["hello"] == {"model": served.card.name, "models": [served.card.name]}
    [waiting] = told["state"]["queue"]["first"]
    assert waiting["tenant"] == "acme"
    assert waiting["job"].endswith(unique)
    life = (await served.http.get(f"/ui/jobs/{waiting['job']}")).json()
    assert (life["state"], life["outputs"]) == ("queued", [{"tokens": 0, "reason": ""}])
    assert (await served.http.get("/ui/jobs/none")).status_code == 404
