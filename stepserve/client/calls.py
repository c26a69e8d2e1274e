"""What both clients need: requests, and how to reach a service."""

from __future__ import annotations

import math
import os
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, TypedDict

from stepserve.protocol.errors import InvalidRequest
from stepserve.protocol.inference import ChatMessage, JobState, Request
from stepserve.protocol.inference_wire import (
    AttachRequest,
    ListJobsRequest,
    SubmitRequest,
    encode_request,
    encode_state,
)
from stepserve.protocol.sampling import SamplingParams

_MAX_OFFSET = 2**64 - 1
AUTHORIZATION = "authorization"
KEY_VARIABLE = "STEPSERVE_API_KEY"

Metadata: TypeAlias = Sequence[tuple[str, str | bytes]]


@dataclass(frozen=True, slots=True)
class CallOptions:
    """What goes with every call: how long it may take, all tries together, and metadata."""

    timeout_s: float | None = None
    metadata: Metadata = ()

    def changed(self, timeout_s: float | None, metadata: Metadata) -> CallOptions:
        """Return these with another time, where one is given, and more metadata."""
        return CallOptions(
            self.timeout_s if timeout_s is None else timeout_s, (*self.metadata, *metadata)
        )

    def begin(self) -> RunningCall:
        """Let the time run from now on."""
        timeout_s = math.inf if self.timeout_s is None else self.timeout_s
        return RunningCall(time.monotonic() + timeout_s, tuple(self.metadata))


def with_key(options: CallOptions, api_key: str | None) -> CallOptions:
    """Return options with which a key is shown: None for the environment's, "" for none."""
    key = os.environ.get(KEY_VARIABLE, "") if api_key is None else api_key
    return options.changed(None, ((AUTHORIZATION, f"Bearer {key}"),) if key else ())


@dataclass(frozen=True, slots=True)
class RunningCall:
    """One thing that is asked for, in as many calls as it takes, until ``end_s`` (monotonic)."""

    end_s: float
    metadata: Metadata

    def arguments(self) -> dict[str, Any]:
        """Return what a stub's method is to be given besides the request, now."""
        left_s = self.end_s - time.monotonic()
        timeout = None if math.isinf(left_s) else max(0.0, left_s)
        return {"timeout": timeout, "metadata": self.metadata or None}


class RequestFields(TypedDict, total=False):
    """The fields of a Request, given by name."""

    prompt: str
    prompt_token_ids: Sequence[int]
    messages: Sequence[ChatMessage]
    sampling: SamplingParams
    model: str
    priority: int
    tenant: str
    idempotency_key: str
    deadline_s: float
    cancel_on_disconnect: bool
    chat_template_kwargs: Mapping[str, Any]


def submission(request: Request | str | None, fields: RequestFields) -> SubmitRequest:
    """Return the wire form of a request: itself or a prompt, with ``fields`` put in.

    It always has an idempotency key, so it can be sent again when an answer was lost.
    """
    if request is None:
        request = Request()
    elif isinstance(request, str):
        request = Request(prompt=request)
    request = replace(request, **fields)
    if not request.idempotency_key:
        request = replace(request, idempotency_key=uuid.uuid4().hex)
    return encode_request(request)


def attachment(job_id: str, offset: int, offsets: Sequence[int]) -> AttachRequest:
    if not all(0 <= start <= _MAX_OFFSET for start in (offset, *offsets)):
        raise InvalidRequest("offset", "must not be negative")
    return AttachRequest(job_id=job_id, offset=offset, offsets=offsets)


def listing(
    state: JobState | None, tenant: str, limit: int, page_token: str = "", model: str = ""
) -> ListJobsRequest:
    if not 0 <= limit < 2**32:
        raise InvalidRequest("limit", "must not be negative")
    return ListJobsRequest(
        state=encode_state(state), tenant=tenant, limit=limit, page_token=page_token, model=model
    )


def address(target: str) -> str:
    """Return gRPC's form of HOST:PORT, or of several replicas' addresses with commas between."""
    if "," not in target:
        return target
    scheme = "ipv6:" if "[" in target else "ipv4:"
    return scheme + target.replace("localhost", "127.0.0.1").replace(" ", "")
