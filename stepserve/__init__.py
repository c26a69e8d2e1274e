"""The Python client of a stepserve scheduler: ``Client``, ``AsyncClient`` and their values.

with Client("localhost:50051") as client:
    for event in client.generate("Once upon a time", sampling=SamplingParams(max_tokens=64)):
        print(event.text, end="", flush=True)
"""

from protos.inference import (
    ChatMessage,
    JobInfo,
    ModelInfo,
    OutputInfo,
    Request,
    SamplingParams,
    StreamEvent,
    Usage,
)
from protos.job import Finish
from protos.step import TokenLogprobs
from stepserve.aio import AsyncClient
from stepserve.client import Client
from stepserve.completion import Completion, Output
from stepserve.errors import (
    Exhausted,
    InvalidRequest,
    NotFound,
    StepserveError,
    Unavailable,
)
from stepserve.retry import RetryPolicy

__all__ = [
    "AsyncClient",
    "ChatMessage",
    "Client",
    "Completion",
    "Exhausted",
    "Finish",
    "InvalidRequest",
    "JobInfo",
    "ModelInfo",
    "NotFound",
    "Output",
    "OutputInfo",
    "Request",
    "RetryPolicy",
    "SamplingParams",
    "StepserveError",
    "StreamEvent",
    "TokenLogprobs",
    "Unavailable",
    "Usage",
]
