"""How much of prompts' log-probabilities one answer may hold."""

from __future__ import annotations

from typing import Any

import pytest

from scheduler_svc.http.errors import ApiError
from scheduler_svc.http.prompt_form import check_number
from stepserve.protocol.prompt_logprobs import MAX_PROMPT_LOGPROBS, PromptLogprobs


@pytest.mark.parametrize(
    ("body", "most"), [({}, 131_072), ({"stream": False}, 131_072), ({"stream": True}, 2_048)]
)
@pytest.mark.parametrize("num_likeliest", [0, 1, 20])
def test_a_request_may_have_so_many(body: dict[str, Any], most: int, num_likeliest: int) -> None:
    num_tokens = most // (1 + num_likeliest)
    check_number(body, "logprobs", num_likeliest, num_tokens)
    with pytest.raises(ApiError, match=f"more than the {most} that one request") as caught:
        check_number(body, "logprobs", num_likeliest, num_tokens + 1)
    assert (caught.value.status, caught.value.param) == (400, "logprobs")


@pytest.mark.parametrize("num_likeliest", [0, 1, 20])
def test_a_jobs_are_kept_in_what_a_reader_who_does_not_read_may_take(num_likeliest: int) -> None:
    num_tokens = MAX_PROMPT_LOGPROBS // (1 + num_likeliest)
    num_likely = num_tokens * num_likeliest
    packed = PromptLogprobs.of([-1.0] * num_tokens, [7] * num_likely, [-1.0] * num_likely)
    num_bytes = len(packed.logprobs) + len(packed.top_ids) + len(packed.top_logprobs)
    assert num_bytes <= 256 * 1024
