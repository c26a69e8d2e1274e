"""What does not fit its field is refused by name, whoever made the request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import pytest

from stepserve.protocol.errors import InvalidRequest
from stepserve.protocol.inference import ChatMessage, Request
from stepserve.protocol.inference_fit import fitting, fitting_token_ids
from stepserve.protocol.inference_json import request_from_json
from stepserve.protocol.inference_wire import decode_request, encode_request
from stepserve.protocol.sampling import SamplingParams

SAMPLING = [each.name for each in fields(SamplingParams)]
NAMES = [each.name for each in fields(Request)] + [f"sampling.{name}" for name in SAMPLING]
U32 = "must be from 0 to 4294967295"


def asked(path: str, value: Any) -> Request:
    """A request with a value in the field at a path."""
    request, (name, _, inner) = Request(prompt="a"), path.partition(".")
    if inner:
        return replace(request, sampling=replace(request.sampling, **{inner: value}))
    changed: dict[str, Any] = {name: value}
    return replace(request, **changed)


def payload(path: str, value: Any) -> dict[str, Any]:
    name, _, inner = path.partition(".")
    return {name: {inner: value}} if inner else {name: value}


MISFITS: list[tuple[str, Any, str]] = [
    ("prompt", 5, "must be a string, not int"),
    ("tenant", "\ud800", "has half of a surrogate pair"),
    ("messages", "ab", "must be a list, not str"),
    ("priority", 1.5, "must be an integer, not float"),
    ("priority", 2**40, "must be from -2147483648 to 2147483647"),
    ("deadline_s", "1", "must be a number, not str"),
    ("deadline_s", True, "must be a number, not bool"),
    ("cancel_on_disconnect", 1, "must be true or false, not int"),
    ("sampling", 5, "must be an object, not int"),
    ("sampling.top_k", -5, U32),
    ("sampling.seed", -1, "must be from 0 to 18446744073709551615"),
    ("sampling.seed", 2**70, "must be from 0 to 18446744073709551615"),
    ("sampling.n", 1.5, "must be an integer, not float"),
    ("sampling.n", 10**400, U32),
    ("sampling.logprobs", 2.5, "must be an integer, not float"),
    ("sampling.logprobs", -1, U32),
    ("sampling.max_tokens", 2.5, "must be an integer, not float"),
    ("sampling.max_tokens", True, "must be an integer, not bool"),
    ("sampling.temperature", 10**400, "must be a finite number"),
    ("sampling.temperature", float("nan"), "must be a finite number"),
    ("sampling.temperature", "1", "must be a number, not str"),
    ("sampling.ignore_eos", 1, "must be true or false, not int"),
    ("sampling.stop", "ab", "must be a list, not str"),
]


@pytest.mark.parametrize(("path", "value", "problem"), MISFITS)
def test_a_value_and_a_line_of_json_are_refused_in_the_same_words(
    path: str, value: Any, problem: str
) -> None:
    with pytest.raises(InvalidRequest) as of_value:
        fitting(asked(path, value))
    with pytest.raises(InvalidRequest) as of_json:
        request_from_json(payload(path, value))
    assert str(of_value.value) == str(of_json.value) == f"{path}: {problem}"
    assert of_value.value.field == path


@pytest.mark.parametrize("path", NAMES)
def test_every_field_is_looked_at(path: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        fitting(asked(path, object()))
    assert caught.value.field == path


@pytest.mark.parametrize(
    ("path", "value", "field", "problem"),
    [
        ("messages", ["a"], "messages[0]", "must be an object, not str"),
        ("messages", [ChatMessage("a", 5)], "messages[0].content", "must be a string, not int"),  # type: ignore[arg-type]
        ("messages", [ChatMessage("a", "")] * 4097, "messages", "at most 4096 are possible"),
        ("sampling.n", "5", "sampling.n", "must be an integer, not str"),
        ("sampling.stop", [5], "sampling.stop[0]", "must be a string, not int"),
        ("sampling.stop", [5] * 17, "sampling.stop", "at most 16 are possible"),
        ("sampling.stop_token_ids", [1, -1], "sampling.stop_token_ids[1]", U32),
        ("sampling.stop_token_ids", [1] * 65, "sampling.stop_token_ids", "at most 64 are possible"),
        ("sampling.logit_bias", {-1: 1.0}, "sampling.logit_bias[-1]", U32),
        ("sampling.logit_bias", {10**5000: 1.0}, "sampling.logit_bias[...]", U32),
        ("sampling.logit_bias", {1: "a"}, "sampling.logit_bias[1]", "must be a number, not str"),
        (
            "sampling.logit_bias",
            dict.fromkeys(range(1025), 0.0),
            "sampling.logit_bias",
            "at most 1024 are possible",
        ),
    ],
)
def test_an_item_is_refused_by_its_position(
    path: str, value: Any, field: str, problem: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        fitting(asked(path, value))
    assert (caught.value.field, str(caught.value)) == (field, f"{field}: {problem}")


@pytest.mark.parametrize(
    ("token_ids", "problem"),
    [
        ([1, 1.5], r"\[1\]: must be an integer, not float"),
        ([1, 2.0], r"\[1\]: must be an integer, not float"),
        ([True], r"\[0\]: must be an integer, not bool"),
        ([1, 2, -1], rf"\[2\]: {U32}"),
        ([2**32], rf"\[0\]: {U32}"),
        ("12", ": must be a list, not str"),
    ],
)
def test_ids_of_a_prompt(token_ids: Any, problem: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^prompt_token_ids{problem}$"):
        fitting_token_ids(token_ids, "prompt_token_ids")


class Unread(Sequence[Any]):
    """A list too long to be looked at."""

    def __len__(self) -> int:
        return 10**7

    def __getitem__(self, index: Any) -> Any:
        raise AssertionError("an item was looked at")


@pytest.mark.parametrize("name", ["stop", "stop_token_ids"])
def test_no_item_is_looked_at_before_their_number(name: str) -> None:
    unread: Any = {name: Unread()}
    with pytest.raises(InvalidRequest, match="at most"):
        fitting(Request(sampling=SamplingParams(**unread)))
    with pytest.raises(InvalidRequest, match="at most"):
        fitting(Request(messages=Unread()))
    ids = Unread()
    assert fitting(Request(prompt_token_ids=ids)).prompt_token_ids is ids


def test_what_fits_is_as_it_was_asked() -> None:
    sampling = SamplingParams(max_tokens=5, temperature=1, stop=("a",), logit_bias={5: 1})
    messages = (ChatMessage("user", "é"),)
    request = Request(prompt_token_ids=(1, 2), messages=messages, sampling=sampling, tenant="é")
    travelled = decode_request(encode_request(request))
    for each in (request, travelled):
        fit = fitting(each)
        assert fit.sampling == replace(sampling, stop=["a"], stop_token_ids=[])
        assert isinstance(fit.sampling.temperature, float)
        assert (list(fit.messages), fit.tenant) == (list(messages), "é")
        assert fitting_token_ids(fit.prompt_token_ids or (), "prompt_token_ids") == [1, 2]
