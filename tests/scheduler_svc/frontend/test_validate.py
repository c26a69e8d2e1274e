"""Every way in which a request can be wrong, and what becomes of one that is not."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest

from scheduler_svc.frontend import validate
from scheduler_svc.frontend.sampling_rules import resolve_sampling
from scheduler_svc.text.chat import ChatTemplate
from scheduler_svc.text.model_card import ModelCard
from stepserve.protocol.errors import InvalidRequest
from stepserve.protocol.inference import Request
from stepserve.protocol.inference_json import request_from_json
from stepserve.protocol.inference_wire import decode_request, encode_request
from stepserve.protocol.job import JobSpec
from stepserve.protocol.packed import float32
from stepserve.protocol.sampling import SamplingParams
from tests.scheduler_svc.text.checkpoints import MAX_CONTEXT, write_checkpoint

SECRET = "Rumpelstiltskin"


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> ModelCard:
    return ModelCard.load(write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny"))


async def resolve(card: ModelCard, payload: dict[str, Any]) -> JobSpec:
    return await validate.resolve(request_from_json(payload), card)


def sampling(**values: Any) -> dict[str, Any]:
    return {"prompt_token_ids": [1, 2, 3], "sampling": values}


WRONG: list[tuple[dict[str, Any], str]] = [
    ({}, "prompt"),
    ({"prompt": ""}, "prompt"),
    ({"prompt_token_ids": []}, "prompt_token_ids"),
    ({"messages": []}, "prompt"),
    ({"prompt": SECRET, "prompt_token_ids": [1]}, "prompt_token_ids"),
    ({"prompt": SECRET, "messages": [{"role": "user", "content": SECRET}]}, "messages"),
    ({"prompt_token_ids": [1], "messages": [{"role": "user"}]}, "messages"),
    ({"prompt": SECRET * 40}, "prompt"),
    ({"prompt": "x" * 1_000_000}, "prompt"),
    ({"prompt_token_ids": [1] * MAX_CONTEXT}, "prompt_token_ids"),
    ({"prompt_token_ids": [1, 325]}, "prompt_token_ids[1]"),
    ({"prompt_token_ids": [2**32 - 1]}, "prompt_token_ids[0]"),
    ({"messages": [{"role": "user", "content": SECRET * 40}]}, "messages"),
    ({"messages": [{"role": "user", "content": SECRET * 2}] * 500}, "messages"),
    ({"messages": [{"role": "u", "content": ""}] * 4097}, "messages"),
    ({"messages": [{"role": "", "content": SECRET}]}, "messages[0].role"),
    ({"messages": [{"role": "r" * 65, "content": SECRET}]}, "messages[0].role"),
    ({"messages": [{"role": "tool", "content": SECRET}]}, "messages"),
    (sampling(max_tokens=0), "sampling.max_tokens"),
    (sampling(max_tokens=MAX_CONTEXT - 2), "sampling.max_tokens"),
    (sampling(max_tokens=2**32 - 1), "sampling.max_tokens"),
    (sampling(temperature=-0.1), "sampling.temperature"),
    (sampling(temperature=100.5), "sampling.temperature"),
    (sampling(top_p=0), "sampling.top_p"),
    (sampling(top_p=1.5), "sampling.top_p"),
    (sampling(min_p=-0.5), "sampling.min_p"),
    (sampling(min_p=1.5), "sampling.min_p"),
    (sampling(presence_penalty=2.5), "sampling.presence_penalty"),
    (sampling(presence_penalty=-2.5), "sampling.presence_penalty"),
    (sampling(frequency_penalty=2.5), "sampling.frequency_penalty"),
    (sampling(frequency_penalty=-2.5), "sampling.frequency_penalty"),
    (sampling(repetition_penalty=0.0099), "sampling.repetition_penalty"),
    (sampling(repetition_penalty=10.5), "sampling.repetition_penalty"),
    (sampling(n=0), "sampling.n"),
    (sampling(n=17), "sampling.n"),
    (sampling(logprobs=21), "sampling.logprobs"),
    (sampling(prompt_logprobs=21), "sampling.prompt_logprobs"),
    (sampling(stop=[""]), "sampling.stop[0]"),
    (sampling(stop=["ok", "x" * 257]), "sampling.stop[1]"),
    (sampling(stop=[str(i) for i in range(17)]), "sampling.stop"),
    (sampling(stop_token_ids=[325]), "sampling.stop_token_ids[0]"),
    (sampling(stop_token_ids=[1] * 65), "sampling.stop_token_ids"),
    (sampling(logit_bias={"325": 1}), "sampling.logit_bias[325]"),
    (sampling(logit_bias={"5": 100.5}), "sampling.logit_bias[5]"),
    (sampling(logit_bias={"5": -100.5}), "sampling.logit_bias[5]"),
    (sampling(logit_bias={str(i): 0 for i in range(1025)}), "sampling.logit_bias"),
    ({"prompt": "a", "chat_template_kwargs": {"a": 1}}, "chat_template_kwargs"),
    (
        {"messages": [{"role": "user"}], "chat_template_kwargs": {"tools": []}},
        "chat_template_kwargs.tools",
    ),
    ({"prompt": "a", "priority": 11}, "priority"),
    ({"prompt": "a", "priority": -11}, "priority"),
    ({"prompt": "a", "tenant": "t" * 129}, "tenant"),
    ({"prompt": "a", "idempotency_key": "k" * 257}, "idempotency_key"),
    ({"prompt": "a", "deadline_s": -1}, "deadline_s"),
    ({"prompt": "a", "deadline_s": 1e12}, "deadline_s"),
]


@pytest.mark.parametrize(("payload", "field"), WRONG)
async def test_a_wrong_request_names_its_field(
    card: ModelCard, payload: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await resolve(card, payload)
    assert caught.value.field == field
    assert SECRET not in str(caught.value)
    assert len(str(caught.value)) < 300


NUMBERS = (
    "temperature",
    "top_p",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", [*NUMBERS, "logit_bias", "deadline_s"])
async def test_what_is_no_number_is_refused(card: ModelCard, name: str, value: float) -> None:
    field = f"sampling.{name}"
    if name == "deadline_s":
        request, field = Request("a", deadline_s=value), name
    elif name == "logit_bias":
        request = Request("a", sampling=SamplingParams(logit_bias={7: value}))
        field = "sampling.logit_bias[7]"
    else:
        request = Request("a", sampling=SamplingParams(**{name: value}))
    with pytest.raises(InvalidRequest) as caught:
        await validate.resolve(request, card)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (Request("a", sampling=SamplingParams(top_k=-5)), "sampling.top_k"),
        (Request("a", sampling=SamplingParams(seed=2**70)), "sampling.seed"),
        (Request("a", sampling=SamplingParams(temperature=10**400)), "sampling.temperature"),
        (Request("a", sampling=SamplingParams(max_tokens=True)), "sampling.max_tokens"),
        (Request("a", tenant="\ud800"), "tenant"),
        (Request(prompt_token_ids=[1, 2.0]), "prompt_token_ids[1]"),  # type: ignore[list-item]
        (Request(prompt_token_ids=range(10**12)), "prompt_token_ids"),
    ],
)
async def test_what_fits_no_field_is_refused_whatever_edge_it_came_over(
    card: ModelCard, request_: Request, field: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await validate.resolve(request_, card)
    assert caught.value.field == field


async def test_every_default_is_filled_in(card: ModelCard) -> None:
    spec = await resolve(card, {"prompt": "Once upon a time"})
    assert card.tokenizer is not None
    assert list(spec.prompt_token_ids) == card.tokenizer.encode("Once upon a time")
    assert spec.prompt_token_ids[0] == card.tokenizer.token_id("<s>")
    chosen = spec.sampling
    assert chosen.max_tokens == MAX_CONTEXT - len(spec.prompt_token_ids)
    assert chosen.stop_token_ids == tuple(card.eos_token_ids)
    assert (chosen.temperature, chosen.top_p, chosen.top_k, chosen.min_p) == (1.0, 1.0, 0, 0.0)
    assert (chosen.repetition_penalty, chosen.logprobs, chosen.n) == (1.0, -1, 1)
    assert spec.tokenizer_fingerprint == card.tokenizer_fingerprint
    again = await resolve(card, {"prompt": "Once upon a time"})
    assert again.sampling.seed != chosen.seed
    assert again.job_id != spec.job_id
    assert spec.job_id.startswith("tiny~")


@pytest.mark.parametrize(("of_prompt", "most"), [(0, 2**15), (1, 2**14), (20, 2**15 // 21)])
def test_a_prompts_log_probabilities_are_bounded(
    card: ModelCard, of_prompt: int, most: int
) -> None:
    roomy = replace(card, max_context=2**18)
    asked = SamplingParams(prompt_logprobs=of_prompt)
    assert resolve_sampling(asked, roomy, most).logprobs == 0, "they come with the output's"
    with pytest.raises(InvalidRequest, match="more than 32768") as caught:
        resolve_sampling(asked, roomy, most + 1)
    assert caught.value.field == "sampling.prompt_logprobs"
    with pytest.raises(InvalidRequest, match="of each output's prompt"):
        resolve_sampling(replace(asked, n=2), roomy, most // 2 + 1)
    more = replace(asked, logprobs=3)
    assert resolve_sampling(more, roomy, most).logprobs == 3


async def test_the_limits_themselves_are_allowed(card: ModelCard) -> None:
    values = {
        "max_tokens": MAX_CONTEXT - 3,
        "temperature": 0,
        "top_p": 1,
        "top_k": 2**32 - 1,
        "min_p": 1,
        "seed": str(2**64 - 1),
        "stop": ["a"] * 15 + ["é" * 256],
        "stop_token_ids": [9, 9, 2],
        "presence_penalty": -2,
        "frequency_penalty": 2,
        "repetition_penalty": 10,
        "logit_bias": {"0": -100, "324": 100},
        "logprobs": 20,
        "n": 16,
    }
    envelope = {"priority": -10, "tenant": "t" * 128, "idempotency_key": "k" * 256}
    spec = await resolve(card, {**sampling(**values), **envelope, "deadline_s": 0.5})
    chosen = spec.sampling
    assert (chosen.max_tokens, chosen.temperature, chosen.n) == (MAX_CONTEXT - 3, 0.0, 16)
    assert (chosen.seed, chosen.logprobs, chosen.top_k) == (2**64 - 1, 20, 0)
    assert chosen.stop == ("a", "é" * 256)
    assert chosen.stop_token_ids == tuple(sorted({2, 9} | card.eos_token_ids))
    assert chosen.logit_bias == ((0, -100.0), (324, 100.0))
    assert (spec.priority, spec.deadline_s) == (-10, 0.5)
    assert chosen.problem(card.vocab_size) == "", "what is accepted here a worker computes"


async def test_the_least_repetition_penalty_is_allowed_as_it_travels(card: ModelCard) -> None:
    spec = await resolve(card, sampling(repetition_penalty=0.01))
    assert spec.sampling.repetition_penalty == pytest.approx(0.01)


async def test_numbers_are_stored_as_they_travel(card: ModelCard) -> None:
    """A front end that is not gRPC's may be given more digits than reach a worker."""
    asked = SamplingParams(temperature=0.7, top_p=0.9, logit_bias={5: 0.1})
    request = Request(prompt_token_ids=[1, 2], sampling=asked)
    chosen = (await validate.resolve(request, card)).sampling
    travelled = decode_request(encode_request(request))
    assert (await validate.resolve(travelled, card)).sampling == replace(
        chosen, seed=ANY, logit_bias=((5, float32(0.1)),)
    )
    assert (chosen.temperature, chosen.top_p) == (float32(0.7), float32(0.9))
    with pytest.raises(InvalidRequest, match=r"^sampling\.top_p: must be more than 0"):
        await validate.resolve(replace(request, sampling=SamplingParams(top_p=1e-60)), card)


async def test_ignoring_the_models_end_leaves_the_requests(card: ModelCard) -> None:
    spec = await resolve(card, sampling(ignore_eos=True, stop_token_ids=[7]))
    assert spec.sampling.stop_token_ids == (7,)


async def test_a_models_ends_and_the_requests_are_no_more_than_a_worker_keeps(
    card: ModelCard,
) -> None:
    many = replace(card, eos_token_ids=frozenset(range(100, 200)))
    spec = await resolve(many, sampling(stop_token_ids=list(range(12))))
    assert len(spec.sampling.stop_token_ids) == 112
    await resolve(many, sampling(stop_token_ids=list(range(64)), ignore_eos=True))
    with pytest.raises(InvalidRequest, match="with the model's own at most 112") as caught:
        await resolve(many, sampling(stop_token_ids=list(range(13))))
    assert caught.value.field == "sampling.stop_token_ids"


async def test_a_chat_is_rendered_and_not_marked_twice(card: ModelCard) -> None:
    spec = await resolve(card, {"messages": [{"role": "user", "content": "hi"}]})
    assert card.tokenizer is not None
    text = "<s><|user|>hi<|assistant|>"
    assert list(spec.prompt_token_ids) == card.tokenizer.encode(text, add_special_tokens=False)
    assert list(spec.prompt_token_ids).count(card.tokenizer.token_id("<s>") or -1) == 1


async def test_a_template_has_the_values_that_a_request_gives_it(card: ModelCard) -> None:
    source = "{{ 'deep' if think else 'brief' }} {{ depth }}{% for m in messages %}{% endfor %}"
    thinking = replace(card, chat_template=ChatTemplate(source, {}))
    asked = {"messages": [{"role": "user", "content": "hi"}]}
    assert card.tokenizer is not None
    for names, text in (({}, "brief "), ({"think": True, "depth": 3}, "deep 3")):
        request = request_from_json({**asked, "chat_template_kwargs": names})
        # As it is, and as it comes over gRPC, which knows no integers.
        for brought in (request, decode_request(encode_request(request))):
            spec = await validate.resolve(brought, thinking)
            ids = card.tokenizer.encode(text, add_special_tokens=False)
            assert list(spec.prompt_token_ids) == ids


async def test_what_is_left_open_is_as_the_model_says(card: ModelCard) -> None:
    says = SamplingParams(temperature=0.6, top_k=20, max_tokens=30, repetition_penalty=1.05)
    model = replace(card, sampling_defaults=says)
    chosen = (await resolve(model, sampling())).sampling
    assert (chosen.temperature, chosen.top_k) == (float32(0.6), 20)
    assert (chosen.max_tokens, chosen.repetition_penalty) == (30, float32(1.05))
    asked = sampling(temperature=0, top_k=0, max_tokens=40, repetition_penalty=1)
    chosen = (await resolve(model, asked)).sampling
    assert (chosen.temperature, chosen.top_k) == (0.0, 0), "an explicit 0 is a 0"
    assert (chosen.max_tokens, chosen.repetition_penalty) == (40, 1.0)
    roomless = replace(model, max_context=10)
    assert (await resolve(roomless, sampling())).sampling.max_tokens == 7


async def test_a_long_chat_is_rendered_beside_the_event_loop(
    card: ModelCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert card.chat_template is not None
    render, threads = card.chat_template.render, []

    def noted(*asked: Any) -> str:
        threads.append(threading.current_thread())
        return render(*asked)

    monkeypatch.setattr(card.chat_template, "render", noted)
    roomy = replace(card, max_context=10_000)
    for num_messages in (1, 1000):
        spec = await resolve(roomy, {"messages": [{"role": "user", "content": "a"}] * num_messages})
        assert len(spec.prompt_token_ids) > num_messages
    assert threads[0] is threading.main_thread()
    assert threads[1] is not threading.main_thread()


async def test_a_long_text_does_not_stop_everything_else(card: ModelCard) -> None:
    assert card.tokenizer is not None
    text = "Once upon a time 🙂 " * 10_000
    encoding = asyncio.create_task(card.tokenizer.encode_async(text))
    num_turns = 0
    while not encoding.done():
        await asyncio.sleep(0.001)
        num_turns += 1
    assert num_turns >= 10
    assert await encoding == card.tokenizer.encode(text)


async def test_without_a_tokenizer_only_ids_are_taken(tmp_path: Path) -> None:
    card = ModelCard.load(write_checkpoint(tmp_path, kind=None))
    assert list((await resolve(card, {"prompt_token_ids": [5]})).prompt_token_ids) == [5]
    for payload, field in (
        ({"prompt": "a"}, "prompt"),
        ({"messages": [{"role": "user", "content": "a"}]}, "messages"),
        (sampling(stop=["a"]), "sampling.stop"),
    ):
        with pytest.raises(InvalidRequest, match=f"^{field}: this model has no tokenizer"):
            await resolve(card, payload)


async def test_a_chat_template_that_is_none_says_so(card: ModelCard) -> None:
    broken = replace(card, chat_template=None, chat_problem="chat template, line 3: no end")
    with pytest.raises(InvalidRequest, match="line 3: no end; send a prompt"):
        await resolve(broken, {"messages": [{"role": "user", "content": "a"}]})
    assert (await resolve(broken, {"prompt": "Once"})).prompt_token_ids


async def test_without_a_chat_template_messages_are_refused(card: ModelCard) -> None:
    plain = replace(card, chat_template=None)
    with pytest.raises(InvalidRequest, match="no chat template"):
        await resolve(plain, {"messages": [{"role": "user", "content": "a"}]})
