"""What tells a request from another one that has the same idempotency key."""

from __future__ import annotations

import hashlib

from stepserve.protocol.inference import Request
from stepserve.protocol.inference_wire import encode_request


def request_digest(request: Request, model: str) -> str:
    """Return the digest of a request for ``model``, of bounded length; empty without a key.

    It is stored with jobs, and so stays what it was: of the message that our clients send,
    without its key. A field that is not set is another than one that is set to its default;
    whether a message has an empty ``sampling`` or none makes no difference. Raises
    InvalidRequest where a value does not fit its field.
    """
    if not request.idempotency_key:
        return ""
    asked = encode_request(request)
    asked.ClearField("idempotency_key")
    asked.model = model
    return hashlib.sha256(asked.SerializeToString(deterministic=True)).hexdigest()[:32]
