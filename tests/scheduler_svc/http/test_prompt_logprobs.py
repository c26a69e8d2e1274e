"""What completions and chats show of a prompt's log-probabilities."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from stepserve.protocol.job import ClaimedJob, Finish
from stepserve.protocol.prompt_logprobs import PromptLogprobs
from stepserve.protocol.step import TokenLogprobs
from tests.scheduler_svc.http.served import HttpServed, events_of


async def told(served: HttpServed, text: str = "dog") -> ClaimedJob:
    """Answer the next job: each prompt token has -1/8 for each place before it, one is likelier."""
    job = await served.lane.claim()
    token_ids, prompt = served.ids(text), job.spec.prompt_token_ids
    places = range(1, len(prompt))
    [other] = served.ids("z")
    scores = PromptLogprobs.of(
        [-at / 8 for at in places], [other for _ in places], [-1 / 16 for _ in places]
    )
    for index in range(job.spec.sampling.n):
        first, *rest = (TokenLogprobs(-0.5, ((i, -0.5),)) for i in token_ids)
        first = TokenLogprobs(first.logprob, first.top, scores)
        await served.lane.commit(job.spec.job_id, token_ids, index=index, logprobs=[first, *rest])
        await served.lane.commit(job.spec.job_id, [], Finish("length"), index=index)
    return job


async def answered(served: HttpServed, path: str, body: dict[str, Any], num_jobs: int = 1) -> Any:
    asked = asyncio.create_task(served.post(path, body))
    jobs = [await told(served) for _ in range(num_jobs)]
    answer = await asked
    assert answer.status_code == 200, answer.text
    return jobs, answer


def check_echo(served: HttpServed, choice: dict[str, Any], prompt_ids: list[int]) -> None:
    tokenizer = served.card.tokenizer
    assert tokenizer is not None
    logprobs, names = choice["logprobs"], [tokenizer.name(i) for i in prompt_ids]
    num_prompt, num_output = len(prompt_ids), len(served.ids("dog"))
    assert logprobs["tokens"][:num_prompt] == names
    assert "".join(logprobs["tokens"][num_prompt:]) == "dog"
    own = [None, *(-at / 8 for at in range(1, num_prompt))]
    assert logprobs["token_logprobs"] == [*own, *[-0.5] * num_output]
    top = logprobs["top_logprobs"]
    assert top[0] is None
    assert top[1:num_prompt] == [
        {"z": -1 / 16, name: value} for name, value in zip(names[1:], own[1:], strict=True)
    ]
    assert [max(each.values()) for each in top[num_prompt:]] == [-0.5] * num_output
    shown = [
        name if i in tokenizer.text_ids else "" for i, name in zip(prompt_ids, names, strict=True)
    ]
    starts = [sum(map(len, shown[:at])) for at in range(num_prompt)]
    assert logprobs["text_offset"][:num_prompt] == starts
    assert logprobs["text_offset"][num_prompt] == len("Once") == len(choice["text"]) - len("dog")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("as_ids", [False, True])
async def test_an_echo_with_logprobs_has_the_prompts(
    served: HttpServed, stream: bool, as_ids: bool
) -> None:
    prompt: Any = served.ids("Once") if as_ids else "Once"
    body = {"prompt": [prompt, prompt], "echo": True, "logprobs": 1, "n": 2, "stream": stream}
    jobs, answer = await answered(served, "/v1/completions", {**body, "max_tokens": 3}, 2)
    for job in jobs:
        assert (job.spec.sampling.logprobs, job.spec.sampling.prompt_logprobs) == (1, 1)
    if stream:
        parts = [chunk["choices"][0] for chunk in events_of(answer.text)[:-1]]
        firsts = {part["index"]: part for part in reversed(parts)}
        choices = [firsts[index] for index in range(4)]
    else:
        choices = answer.json()["choices"]
    assert [choice["index"] for choice in choices] == [0, 1, 2, 3]
    for choice in choices:
        check_echo(served, choice, list(jobs[0].spec.prompt_token_ids))
        assert "prompt_logprobs" not in choice


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/v1/completions", {"prompt": "Once"}),
        ("/v1/completions", {"prompt": "Once", "echo": True, "logprobs": 2}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Once"}]}),
    ],
)
async def test_prompt_logprobs_are_listed_as_vllm_does(
    served: HttpServed, path: str, asked: dict[str, Any]
) -> None:
    body = {**asked, "prompt_logprobs": 1, "max_tokens": 3}
    [job], answer = await answered(served, path, body)
    assert job.spec.sampling.prompt_logprobs == 1
    [choice] = answer.json()["choices"]
    listed = (answer.json() if "chat" in path else choice)["prompt_logprobs"]
    assert listed[0] is None
    [other] = served.ids("z")
    for at, token_id in enumerate(job.spec.prompt_token_ids[1:], 1):
        name = served.card.tokenizer.name(token_id)
        assert listed[at] == {
            str(token_id): {"logprob": -at / 8, "rank": None, "decoded_token": name},
            str(other): {"logprob": -1 / 16, "rank": 1, "decoded_token": "z"},
        }
    assert len(listed) == len(job.spec.prompt_token_ids)
    assert (choice["logprobs"] is None) == ("logprobs" not in asked), "only what was asked for"


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
@pytest.mark.parametrize("value", [-1, 21, "many", True, 1.5])
async def test_a_number_of_likeliest_that_cannot_be_is_refused(
    served: HttpServed, path: str, value: Any
) -> None:
    chat = {"messages": [{"role": "user", "content": "x"}]}
    asked: dict[str, Any] = chat if "chat" in path else {"prompt": "x"}
    answer = await served.post(path, {**asked, "prompt_logprobs": value})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "prompt_logprobs"
    answer = await served.post(path, {**asked, "prompt_logprobs": 1, "stream": True})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "prompt_logprobs"
    assert not await served.queue.jobs()


async def test_what_is_too_much_is_refused_under_the_name_that_asked(
    served: HttpServed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler_svc.frontend.sampling_rules.MAX_PROMPT_LOGPROBS", 3)
    for more, param in (
        ({"echo": True, "logprobs": 1}, "logprobs"),
        ({"prompt_logprobs": 1}, "prompt_logprobs"),
    ):
        answer = await served.post("/v1/completions", {"prompt": served.ids("Once upon"), **more})
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert error["param"] == param
        assert "more than 3 log-probabilities" in error["message"]


async def test_all_prompts_of_a_request_are_bounded_together(
    served: HttpServed, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = served.ids("Once upon")
    num_each = 2 * len(prompt)
    monkeypatch.setattr("scheduler_svc.http.prompt_form.MAX_SHOWN", 4 * num_each - 1)
    monkeypatch.setattr("scheduler_svc.http.prompt_form.MAX_STREAMED", num_each - 1)
    echoed, listed = {"echo": True, "logprobs": 1}, {"prompt_logprobs": 1}
    for body, param in (
        ({"prompt": [prompt, prompt], "n": 2, **echoed}, "logprobs"),
        ({"prompt": [prompt, prompt], "n": 2, **listed}, "prompt_logprobs"),
        ({"prompt": [prompt] * 4, **listed}, "prompt_logprobs"),
        ({"prompt": prompt, "stream": True, **echoed}, "logprobs"),
    ):
        answer = await served.post("/v1/completions", body)
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == param
    assert not await served.queue.jobs()
    await answered(served, "/v1/completions", {"prompt": [prompt] * 3, **echoed}, 3)


async def test_of_tokens_that_are_written_alike_the_likeliest_is_shown(served: HttpServed) -> None:
    """By the most of a place is told whether its token was the likeliest."""
    twins = [i for i in range(served.card.vocab_size) if served.card.tokenizer.name(i) == "�"][:3]
    assert len(twins) == 3
    own, likely, less = twins
    asked = asyncio.create_task(served.post("/v1/completions", {"prompt": "x", "logprobs": 2}))
    job = await served.lane.claim()
    entry = TokenLogprobs(-4.0, ((likely, -0.5), (less, -2.0)))
    await served.lane.commit(job.spec.job_id, [own], Finish("length"), logprobs=[entry])
    [choice] = (await asked).json()["choices"]
    assert choice["logprobs"]["token_logprobs"] == [-4.0]
    assert choice["logprobs"]["top_logprobs"] == [{"�": -0.5}]
