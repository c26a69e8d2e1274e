"""What is said of an address never holds its password."""

from __future__ import annotations

import pytest

from stepserve.process.redaction import redacted


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("redis://:secret@host:6379/0", "redis://:***@host:6379/0"),
        ("rediss://user:sec:r@et@host/0?db=1", "rediss://user:***@host/0?db=1"),
        ("redis://host/0?password=secret&db=1", "redis://host/0?password=***&db=1"),
        ("unix://user:secret@/run/redis.sock?db=2", "unix://user:***@/run/redis.sock?db=2"),
        (
            "unix:///run/a@b.sock?username=u&password=secret",
            "unix:///run/a@b.sock?username=u&password=***",
        ),
        ("no URL at all", "no URL at all"),
        ("redis://secret@host/0", "redis://***@host/0"),
        ("redis://:se/cr?et#@host/0", "redis://:***@host/0"),
        ("redis://:/secret@host/0", "redis://***@host/0"),
        ("redis://user:sec/r@et@host/0", "redis://user:***@host/0"),
        ("rediss://host?ssl_password=secret&db=1", "rediss://host?ssl_password=***&db=1"),
        ("redis://host/0?PASSWORD=se@c#ret", "redis://host/0?PASSWORD=***"),
        (
            "unknown: --redis-ur=redis://:secret@host",
            "unknown: --redis-ur=redis://:***@host",
        ),
    ],
)
def test_a_password_is_not_said(url: str, said: str) -> None:
    assert redacted(url) == said
