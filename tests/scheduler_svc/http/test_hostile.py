"""Clients that mean harm, or are broken: each is told so, and costs little."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import psutil
import pytest

from scheduler_svc.http import body, guard
from tests.scheduler_svc.http.served import HttpServed

MIB = 1024 * 1024
HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\n"


async def raw(served: HttpServed, *parts: bytes) -> tuple[int, bytes]:
    """Send bytes, and read until the connection ends; return the status and the rest."""
    host, _, port = served.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
        async with asyncio.timeout(10):
            answer = await reader.read()
    except ConnectionError:
        answer = b""
    finally:
        writer.close()
    status = answer.split(b" ", 2)[1] if answer.startswith(b"HTTP/") else b"0"
    return int(status), answer.partition(b"\r\n\r\n")[2]


async def is_well(served: HttpServed) -> None:
    assert (await served.http.get("/live")).status_code == 200


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no json",
        b"[1]",
        b'{"prompt": "\xff\xfe"}',
        b'{"prompt": "\\ud800"}',
        b'{"prompt": NaN}',
        b'{"max_tokens": ' + b"9" * 5000 + b"}",
        b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    ],
)
async def test_what_is_no_json_is_refused(served: HttpServed, content: bytes) -> None:
    for path in ("/v1/completions", "/v1/chat/completions", "/v1/responses", "/tokenize"):
        answer = await served.http.post(path, content=content)
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "invalid_json"


@pytest.mark.parametrize(
    "given",
    [
        {"prompt": "x", "temperature": "hot"},
        {"prompt": "x", "temperature": 1e400},
        {"prompt": "x", "seed": 2**70},
        {"prompt": "x", "n": 10**30},
        {"prompt": "x", "stop": ["x"] * 100},
        {"prompt": "x", "stop": [5]},
        {"prompt": "x", "logit_bias": {"x": 1}},
        {"prompt": "x", "logit_bias": {"5": "x"}},
        {"prompt": "x", "priority": 10**9},
        {"prompt": "x", "deadline_s": -1},
        {"prompt": "x", "stream": "yes"},
        {"prompt": "x", "stream_options": []},
        {"prompt": "x" * 100_000},
        {"prompt": [[]]},
        {"prompt": ["x"] * 1000},
        {"prompt": [-1]},
        {"prompt": [10**9]},
        {"prompt": [1.5]},
        {"prompt": None},
        {"prompt": "x", "model": 5},
        {"prompt": "x", "\ud83d": 1},
    ],
)
async def test_values_of_no_use_are_refused(served: HttpServed, given: object) -> None:
    answer = await served.http.post("/v1/completions", content=json.dumps(given))
    assert 400 <= answer.status_code < 500
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("end", [b"x-flood: 1\r\n" * 1000, b"x: " + b"a" * MIB, b"a" * MIB])
async def test_heads_without_end_are_refused(served: HttpServed, end: bytes) -> None:
    status, content = await raw(served, HEAD, *[end] * 8)
    assert status in (0, 400, 431)  # 0: cut off before all of it was sent
    if content:
        assert "error" in json.loads(content)
    await is_well(served)


async def test_who_speaks_no_http_is_refused(served: HttpServed) -> None:
    for nonsense in (
        b"\0" * 100,
        b"\x16\x03\x01\x02\x00",
        b"GET\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ):
        assert (await raw(served, nonsense))[0] == 400
    await is_well(served)


async def test_a_slow_loris_loses_its_connection(
    served: HttpServed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "HEAD_TIMEOUT_S", 0.2)
    monkeypatch.setattr(body, "BODY_TIMEOUT_S", 0.2)
    assert (await raw(served))[0] == 408
    assert (await raw(served, HEAD))[0] == 408
    length = b"content-length: 100\r\nconnection: close\r\n\r\n"
    status, content = await raw(served, HEAD + length + b"{")
    assert status == 408
    assert "took too long" in json.loads(content)["error"]["message"]


async def test_bodies_that_are_too_large_cost_no_memory(served: HttpServed) -> None:
    process = psutil.Process()
    before = process.memory_info().rss

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b" " * MIB

    for _ in range(2):
        answer = await served.http.post("/v1/completions", content=pieces())
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "request_too_large"
    told = HEAD + b"connection: close\r\ncontent-length: 104857600\r\n\r\n"
    assert (await raw(served, told))[0] == 413
    assert process.memory_info().rss - before < 60 * MIB
    await is_well(served)


async def test_large_bodies_at_once_are_bounded(
    served: HttpServed, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert served.server is not None
    monkeypatch.setattr(served.server._app._bodies, "_max_bytes", MIB)
    answer = await served.http.post("/v1/completions", content=b" " * (2 * MIB))
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) >= 1
    assert served.server._app._bodies._num_bytes == 0


async def test_routes_that_there_are_not_are_told_in_the_same_form(served: HttpServed) -> None:
    for method, path, status in (("GET", "/v1/odd", 404), ("GET", "/v1/completions", 405)):
        answer = await served.http.request(method, path)
        assert answer.status_code == status
        assert answer.json()["error"]["code"] == "unknown_url"


async def test_a_client_that_does_not_read_holds_nothing_up(served: HttpServed) -> None:
    body = json.dumps({"prompt": "x", "stream": True, "n": 16, "max_tokens": 50}).encode()
    host, _, port = served.address.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(HEAD + b"content-length: %d\r\n\r\n" % len(body) + body)
    job = await served.lane.claim()
    await served.say_in(job, "a small dog")
    asked = asyncio.create_task(served.post("/v1/completions", {"prompt": "x"}))
    await served.say("yes")
    assert (await asked).json()["choices"][0]["text"] == "yes"
    writer.close()
