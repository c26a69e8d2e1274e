"""How tokens are chosen, as options of the command line."""

from __future__ import annotations

import json
from typing import Annotated, Any, ClassVar

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings

from stepserve.process.variables import FROM_ENVIRONMENT
from stepserve.protocol.errors import InvalidRequest
from stepserve.protocol.inference_json import structured_from_json
from stepserve.protocol.sampling import MAX_OUTPUTS, SamplingParams
from stepserve.protocol.structured import StructuredOutputs


class SamplingOptions(BaseSettings):
    """Each is the proto's field of that name; what is left out is for the service to choose."""

    model_config = FROM_ENVIRONMENT
    HELP_GROUP: ClassVar[str] = "sampling (what is left out is the model's or the service's)"

    max_tokens: int | None = Field(
        None, ge=1, description="output tokens at most; default: what fits the context"
    )
    temperature: float | None = Field(
        None,
        description="0: always the likeliest token; higher: more chance; default: the model's own, "
        "else 1",
    )
    top_p: float | None = Field(
        None, description="choose among the likeliest tokens that are so likely together; 1: all"
    )
    top_k: int | None = Field(
        None, ge=0, description="choose among so many of the likeliest tokens; 0: all"
    )
    min_p: float | None = Field(
        None,
        description="choose among tokens at least so likely, relative to the likeliest; 0: all",
    )
    seed: int | None = Field(
        None, description="the same seed gives the same output; default: another one each time"
    )
    stop: list[str] = Field(
        [], description="a text that ends the output; again for another (variable: a JSON list)"
    )
    stop_token_ids: list[int] = Field([], description="ids of tokens that end the output: 5,7")
    ignore_eos: bool | None = Field(None, description="go on after the model's own end of a text")
    presence_penalty: float | None = Field(
        None, description="against tokens that are in the output already, -2 to 2; 0: none"
    )
    frequency_penalty: float | None = Field(
        None, description="the same, for each time that they are in it, -2 to 2; 0: none"
    )
    repetition_penalty: float | None = Field(
        None, description="against tokens of prompt and output, a factor above 0; 1: none"
    )
    logit_bias: list[str] = Field(
        [], description="TOKEN_ID=BIAS, -100 to 100; again for another (variable: a JSON list)"
    )
    logprobs: int | None = Field(
        None, ge=0, description="log-probabilities of each token and of so many others, with --json"
    )
    prompt_logprobs: int | None = Field(
        None, ge=0, description="the same of the prompt's tokens, with the first event; with --json"
    )
    n: Annotated[int | None, Field(ge=1)] = Field(
        None,
        description=f"independent outputs, {MAX_OUTPUTS} at most (how long each may be says "
        "--max-tokens)",
    )
    min_tokens: int | None = Field(None, ge=0, description="output tokens before any end")
    structured_outputs: str = Field(
        "",
        description='what the text has to be, in JSON: {"json": SCHEMA}, {"json_object": true}, '
        '{"regex": "..."}, {"choice": ["a", "b"]} or {"grammar": "..."}',
    )

    @field_validator("n")
    @classmethod
    def _is_no_length(cls, value: int | None) -> int | None:
        if value is not None and value > MAX_OUTPUTS:
            told = f"{MAX_OUTPUTS} independent outputs at most; for their tokens there is"
            raise ValueError(f"{told} --max-tokens")
        return value

    def sampling(self) -> SamplingParams:
        """Return what was asked for. Raises InvalidRequest for what can't be read."""
        values: dict[str, Any] = {
            name: getattr(self, name) for name in SamplingOptions.model_fields
        }
        values["logit_bias"] = dict(map(_bias, self.logit_bias))
        values["structured_outputs"] = _structured(self.structured_outputs)
        return SamplingParams(**values)


def _structured(given: str) -> StructuredOutputs | None:
    if not given:
        return None
    try:
        payload = json.loads(given)
    except (ValueError, RecursionError):
        raise InvalidRequest("--structured-outputs", "is not JSON") from None
    return structured_from_json(payload, "--structured-outputs")


def _bias(text: str) -> tuple[int, float]:
    token_id, _, bias = text.rpartition("=")
    try:
        return int(token_id), float(bias)
    except ValueError:
        raise InvalidRequest("--logit-bias", f"{text[:50]!r} is not TOKEN_ID=BIAS") from None
