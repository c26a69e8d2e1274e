from __future__ import annotations

from stepserve.client.json_forms import event_json
from stepserve.protocol.inference import StreamEvent
from stepserve.protocol.prompt_logprobs import PromptLogprobs
from stepserve.protocol.step import TokenLogprobs


def test_a_prompts_log_probabilities_stand_beside_the_outputs() -> None:
    prompt = PromptLogprobs.of([-2.0], [7], [-0.5])
    entries = (TokenLogprobs(-1.0, ((8, -1.0),), prompt), TokenLogprobs(-3.0))
    told = event_json(StreamEvent("job", token_ids=(8, 9), logprobs=entries))
    assert told["logprobs"] == [
        {"logprob": -1.0, "top": [{"token_id": 8, "logprob": -1.0}]},
        {"logprob": -3.0, "top": []},
    ]
    assert told["prompt_logprobs"] == [
        None,
        {"logprob": -2.0, "top": [{"token_id": 7, "logprob": -0.5}]},
    ]
    assert "prompt_logprobs" not in event_json(StreamEvent("job", logprobs=entries[1:]))
