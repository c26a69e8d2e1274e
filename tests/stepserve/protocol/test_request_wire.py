"""A request's numbers: those that have no place in their fields are refused, naming them."""

from __future__ import annotations

from typing import Any

import pytest

from stepserve.protocol.errors import InvalidRequest
from stepserve.protocol.inference import Request, SamplingParams
from stepserve.protocol.inference_wire import encode_request

TOO_LARGE = [2**64, -(2**64), 2**70]
SAMPLING = ("max_tokens", "top_k", "seed", "logprobs", "n")
ENVELOPE = ("priority", "cancel_on_disconnect")


@pytest.mark.parametrize("value", [-1, 1.5, "x", *TOO_LARGE])
@pytest.mark.parametrize("name", SAMPLING)
def test_counts_of_the_sampling(name: str, value: Any) -> None:
    sampling = SamplingParams(**{name: value})
    with pytest.raises(InvalidRequest, match=f"^sampling.{name}: a .* does not fit"):
        encode_request(Request(prompt="a", sampling=sampling))


@pytest.mark.parametrize("value", ["x", *TOO_LARGE])
@pytest.mark.parametrize("name", ENVELOPE)
def test_counts_of_the_envelope(name: str, value: Any) -> None:
    with pytest.raises(InvalidRequest, match=f"^{name}: a .* does not fit"):
        encode_request(Request(**{"prompt": "a", name: value}))


@pytest.mark.parametrize("value", [-1, 2**32, *TOO_LARGE, None, 1.5, "x"])
def test_token_ids(value: Any) -> None:
    for request, field in (
        (Request(prompt_token_ids=[1, value]), "prompt_token_ids"),
        (Request("a", sampling=SamplingParams(stop_token_ids=[value])), "sampling.stop_token_ids"),
        (Request("a", sampling=SamplingParams(logit_bias={value: 1.0})), "sampling.logit_bias"),
    ):
        with pytest.raises(InvalidRequest, match=f"^{field}: a .* does not fit"):
            encode_request(request)
