"""Where a list goes on is a token that only we read."""

from __future__ import annotations

import base64

import pytest

from scheduler_svc.frontend.listing import Listing
from scheduler_svc.queue import Place
from stepserve.protocol.errors import InvalidRequest

PLACE = Place(1795720680.399904, "tiny~0123")


def encoded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode()


@pytest.mark.parametrize("tenant", ["", "ann", "🙂" * 128])
def test_a_token_says_behind_which_job(tenant: str) -> None:
    listing = Listing("ended", tenant, 5)
    token = listing.token(PLACE)
    assert Listing("ended", tenant, 7, token).after == PLACE
    assert (listing.token(None), listing.after) == ("", None)
    for other in (Listing(None, tenant, 5, token), Listing("ended", "bob", 5, token)):
        with pytest.raises(InvalidRequest, match=r"^page_token: is of a list of another"):
            _ = other.after


@pytest.mark.parametrize(
    "token",
    [
        "x",
        "é",
        "=" * 3000,
        encoded("[" * 1200),
        encoded("{}"),
        encoded("[null, null, 1]"),
        encoded('[null, "", "x", "id"]'),
        encoded('[null, "", NaN, "id"]'),
        encoded('[null, "", 1e999, "id"]'),
        base64.urlsafe_b64encode(b"\xff\xfe").decode(),
    ],
)
def test_what_is_none_of_ours_is_refused(token: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^page_token: is none of ours"):
        _ = Listing(page_token=token).after


def test_the_limit_is_bounded() -> None:
    assert Listing().num_jobs == 100
    assert Listing(limit=1000).num_jobs == 1000
    for limit in (-1, 1001):
        with pytest.raises(InvalidRequest, match=r"^limit: "):
            _ = Listing(limit=limit).num_jobs
