"""Clients choose tenants' names; metrics name a bounded number of them."""

from __future__ import annotations

from scheduler_svc.metrics.tenants import OTHERS, Tenants


def test_the_first_so_many_are_named_for_good() -> None:
    tenants = Tenants(3, ["heavy"])
    assert [tenants.label(name) for name in ("a", "", "b", "a", "heavy")] == [
        "a",
        "",
        OTHERS,
        "a",
        "heavy",
    ]


def test_a_name_that_is_none_is_not_named() -> None:
    tenants = Tenants(10)
    assert tenants.label("x" * 65) == OTHERS
    assert tenants.label(OTHERS) == OTHERS
    assert Tenants(0).label("a") == OTHERS
