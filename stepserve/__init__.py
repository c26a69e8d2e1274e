"""The Python client of a stepserve scheduler: ``Client``, ``AsyncClient`` and their values.

with Client("localhost:50051") as client:
    for event in client.generate("Once upon a time", sampling=SamplingParams(max_tokens=64)):
        print(event.text, end="", flush=True)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from stepserve.client.aio import AsyncClient
    from stepserve.client.blocking import Client
    from stepserve.client.calls import CallOptions
    from stepserve.client.completion import Completion, Output
    from stepserve.client.errors import (
        BegunAnew,
        CallFailed,
        Exhausted,
        Forbidden,
        Infeasible,
        InvalidRequest,
        NotFound,
        OutOfRange,
        StepserveError,
        TimedOut,
        Unauthenticated,
        Unavailable,
        Unreached,
    )
    from stepserve.client.retry import RetryPolicy
    from stepserve.protocol.inference import (
        ChatMessage,
        JobInfo,
        JobPage,
        ModelInfo,
        OutputInfo,
        Request,
        StreamEvent,
        Usage,
    )
    from stepserve.protocol.job import Finish
    from stepserve.protocol.prompt_logprobs import PromptLogprobs
    from stepserve.protocol.sampling import SamplingParams
    from stepserve.protocol.step import TokenLogprobs
    from stepserve.protocol.structured import StructuredOutputs
    from stepserve.protocol.worker_status import WorkerStatus
    from stepserve.tls.client import channel_credentials

# Imported when it is first asked for: the services import this package for what they share, and
# need no client.
_HOME = {
    "AsyncClient": "stepserve.client.aio",
    "BegunAnew": "stepserve.client.errors",
    "CallFailed": "stepserve.client.errors",
    "CallOptions": "stepserve.client.calls",
    "ChatMessage": "stepserve.protocol.inference",
    "Client": "stepserve.client.blocking",
    "Completion": "stepserve.client.completion",
    "Exhausted": "stepserve.client.errors",
    "Finish": "stepserve.protocol.job",
    "Forbidden": "stepserve.client.errors",
    "Infeasible": "stepserve.client.errors",
    "InvalidRequest": "stepserve.client.errors",
    "JobInfo": "stepserve.protocol.inference",
    "JobPage": "stepserve.protocol.inference",
    "ModelInfo": "stepserve.protocol.inference",
    "NotFound": "stepserve.client.errors",
    "OutOfRange": "stepserve.client.errors",
    "Output": "stepserve.client.completion",
    "OutputInfo": "stepserve.protocol.inference",
    "PromptLogprobs": "stepserve.protocol.prompt_logprobs",
    "Request": "stepserve.protocol.inference",
    "RetryPolicy": "stepserve.client.retry",
    "SamplingParams": "stepserve.protocol.sampling",
    "StepserveError": "stepserve.client.errors",
    "StreamEvent": "stepserve.protocol.inference",
    "StructuredOutputs": "stepserve.protocol.structured",
    "TimedOut": "stepserve.client.errors",
    "TokenLogprobs": "stepserve.protocol.step",
    "Unauthenticated": "stepserve.client.errors",
    "Unavailable": "stepserve.client.errors",
    "Unreached": "stepserve.client.errors",
    "Usage": "stepserve.protocol.inference",
    "WorkerStatus": "stepserve.protocol.worker_status",
    "channel_credentials": "stepserve.tls.client",
}

__all__ = [
    "AsyncClient",
    "BegunAnew",
    "CallFailed",
    "CallOptions",
    "ChatMessage",
    "Client",
    "Completion",
    "Exhausted",
    "Finish",
    "Forbidden",
    "Infeasible",
    "InvalidRequest",
    "JobInfo",
    "JobPage",
    "ModelInfo",
    "NotFound",
    "OutOfRange",
    "Output",
    "OutputInfo",
    "PromptLogprobs",
    "Request",
    "RetryPolicy",
    "SamplingParams",
    "StepserveError",
    "StreamEvent",
    "StructuredOutputs",
    "TimedOut",
    "TokenLogprobs",
    "Unauthenticated",
    "Unavailable",
    "Unreached",
    "Usage",
    "WorkerStatus",
    "__version__",
    "channel_credentials",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("stepserve.process.version").own_version()
    if name not in _HOME:
        raise AttributeError(f"module 'stepserve' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
