"""What HTTP tells of itself at ``/metrics``: by route, whatever clients send."""

from __future__ import annotations

import asyncio

from prometheus_client.parser import text_string_to_metric_families

from tests.scheduler_svc.http.served import HttpServed

WAIT_S = 20.0
Answers = dict[tuple[str, str, str], float]


async def told(served: HttpServed) -> dict[str, list[tuple[dict[str, str], float]]]:
    answer = await served.http.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


async def answers(served: HttpServed) -> Answers:
    samples = (await told(served)).get("stepserve:http_requests_total", [])
    return {(each["route"], each["method"], each["status"]): value for each, value in samples}


async def test_answers_are_counted_by_route_method_and_status(served: HttpServed) -> None:
    asking = asyncio.create_task(served.post("/v1/completions", {"prompt": "Hi"}))
    await served.say(" you")
    assert (await asking).status_code == 200
    assert (await served.post("/v1/completions", {"prompt": 5})).status_code == 400
    for name in ("a", "b", "c"):
        await served.http.get(f"/v1/responses/{name}")
        await served.http.get(f"/no/such/{name}")
    await served.http.delete("/v1/models")
    found = await answers(served)
    assert found["/v1/completions", "POST", "200"] == 1
    assert found["/v1/completions", "POST", "400"] == 1
    assert found["/v1/responses/{id}", "GET", "404"] == 3
    assert found["(none)", "(none)", "404"] == 3
    assert found["(none)", "(none)", "405"] == 1
    metrics = await told(served)
    counts = {
        labels["route"]: value
        for labels, value in metrics["stepserve:http_request_duration_seconds_count"]
    }
    assert counts["/v1/completions"] == 2
    # Of no model: they are counted before any is known.
    assert {labels["model_name"] for labels, _ in metrics["stepserve:http_requests_total"]} == {""}


async def test_a_stream_is_open_until_its_end_and_a_client_that_left_is_told(
    served: HttpServed,
) -> None:
    body = {"prompt": "Hi", "stream": True}
    async with served.http.stream("POST", "/v1/completions", json=body) as answer:
        job = await served.lane.claim()
        await served.lane.commit(job.spec.job_id, served.ids(" you"))
        await anext(answer.aiter_lines())
        [(_, num_open)] = (await told(served))["stepserve:http_requests_open"]
        assert num_open == 2, "the stream, and this one"
    async with asyncio.timeout(WAIT_S):
        while ("/v1/completions", "POST", "499") not in await answers(served):
            await asyncio.sleep(0.01)
    metrics = await told(served)
    assert [value for _, value in metrics["stepserve:http_requests_open"]] == [1]
    begun = {
        labels["route"]: value
        for labels, value in metrics["stepserve:http_response_start_seconds_count"]
    }
    assert begun["/v1/completions"] == 1
