"""Why no service is reached, in plain words. gRPC tells it as a chain of causes of its own."""

from __future__ import annotations

NOTHING_LISTENS = "nothing listens there"
NOT_GRPC = "what listens there does not speak gRPC, or only over TLS"
NO_ADDRESS = "there is no address of that name"

# What stands in gRPC's text, the first one found counting, and what it means.
_MEANINGS = (
    ("Failed to parse", "that is not HOST:PORT"),
    ("Misformatted", "that is not HOST:PORT"),
    ("errors resolving", NO_ADDRESS),
    ("DNS resolution failed", NO_ADDRESS),
    ("Expected SETTINGS frame", NOT_GRPC),
    ("http1.x", NOT_GRPC),
    ("andshake", "no TLS was agreed on"),
    ("refused", NOTHING_LISTENS),
    ("No route to host", "the network has no way to it"),
    ("unreachable", "the network has no way to it"),
    ("timed out", "it does not answer"),
    ("Timeout", "it does not answer"),
    ("Socket closed", "it closed the connection"),
    ("reset", "it closed the connection"),
    ("GOAWAY", "it closed the connection"),
    ("Broken pipe", "it closed the connection"),
)
# How gRPC begins what it says itself of an attempt to connect, or of a connection that broke.
_OF_TRANSPORT = (
    "failed to connect",
    "errors resolving",
    "DNS resolution failed",
    "Socket closed",
    "recvmsg:",
    "sendmsg:",
    "GOAWAY",
    "Connection reset",
    "Broken pipe",
    "connections to all backends failing",
    "keepalive",
    "ping timeout",
)


def why_unreached(text: str) -> str:
    """Return what a status's text means; "" where it is a service's own and no connection's."""
    if not text.startswith(_OF_TRANSPORT):
        return ""
    return next((told for found, told in _MEANINGS if found in text), "the connection broke")
