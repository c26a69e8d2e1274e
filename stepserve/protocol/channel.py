"""gRPC channel and server options that both sides must agree on."""

from __future__ import annotations

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
PING_INTERVAL_MS = 10_000
PING_TIMEOUT_MS = 5_000
# gRPC's own waits grow to two minutes, and a new channel to the same address goes on with them:
# who was away for half a minute would be found a quarter of a minute late.
MIN_RECONNECT_WAIT_MS, MAX_RECONNECT_WAIT_MS = 100, 2_000
MIN_CONNECT_TIMEOUT_MS = 1_000


def address(host: str, port: int) -> str:
    """Return HOST:PORT as gRPC reads it: an IPv6 address is put in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def channel_options(
    max_message_bytes: int = MAX_MESSAGE_BYTES,
    ping_interval_ms: int = PING_INTERVAL_MS,
    ping_timeout_ms: int = PING_TIMEOUT_MS,
) -> list[tuple[str, int]]:
    """Return options for a channel: a peer that vanished is noticed, and found again soon.

    Both keepalive knobs and the transport's own ping time-out are needed: with the
    first two alone a stopped peer was noticed after 60 s instead of seconds.
    """
    return [
        ("grpc.keepalive_time_ms", ping_interval_ms),
        ("grpc.keepalive_timeout_ms", ping_timeout_ms),
        ("grpc.http2.ping_timeout_ms", ping_timeout_ms),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", MIN_RECONNECT_WAIT_MS),
        ("grpc.min_reconnect_backoff_ms", MIN_CONNECT_TIMEOUT_MS),
        ("grpc.max_reconnect_backoff_ms", MAX_RECONNECT_WAIT_MS),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
    ]


def server_options(max_message_bytes: int = MAX_MESSAGE_BYTES) -> list[tuple[str, int]]:
    """Return options for a server: the channel's, and patience with such a channel's pings.

    A server with default options ends a pinging client's connection ("too many pings").
    """
    return [
        *channel_options(max_message_bytes),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", PING_INTERVAL_MS // 2),
        ("grpc.http2.min_ping_interval_without_data_ms", PING_INTERVAL_MS // 2),
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.so_reuseport", 0),
    ]
