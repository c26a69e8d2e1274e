"""Equal beginnings have equal pseudonyms, and nothing else has."""

from __future__ import annotations

import pytest

from scheduler_svc.trace.chain import Chain

KEY = b"k" * 32


def pseudonyms(token_ids: list[int], key: bytes = KEY, tenant: str = "t") -> list[int]:
    found = Chain(key, tenant, token_ids).pseudonyms(token_ids)
    assert found is not None
    return list(found)


def test_equal_beginnings_are_equal_and_end_where_they_differ() -> None:
    first, second = pseudonyms([5, 6, 7, 5]), pseudonyms([5, 6, 8, 5])
    assert first[:2] == second[:2]
    assert not set(first[2:]) & set(second)
    assert first[0] != first[3], "the same token elsewhere"


@pytest.mark.parametrize("other", [{"key": b"o" * 32}, {"tenant": "u"}])
def test_another_key_or_tenant_has_others(other: dict[str, object]) -> None:
    assert not set(pseudonyms([5, 6, 7])) & set(pseudonyms([5, 6, 7], **other))  # type: ignore[arg-type]


def test_a_token_is_looked_up_at_its_position_or_appended_as_the_next() -> None:
    chain = Chain(KEY, "t", [5, 6])
    assert chain.pseudonym(6, 1) == pseudonyms([5, 6])[1]
    assert chain.pseudonym(7, 2) == pseudonyms([5, 6, 7])[2]
    assert chain.pseudonym(8, 2) is None, "another one is there"
    assert chain.pseudonym(7, 4) is None, "a gap"
    assert chain.pseudonyms([6, 7], first=1) == chain.pseudonyms([5, 6, 7])[1:]  # type: ignore[index]
    assert chain.pseudonyms([6, 8], first=1) is None


def test_a_fork_goes_on_alone() -> None:
    chain = Chain(KEY, "t", [5])
    fork = chain.fork()
    fork.extend([6])
    chain.extend([7])
    assert chain.pseudonym(7, 1) == pseudonyms([5, 7])[1]
    assert fork.pseudonym(6, 1) == pseudonyms([5, 6])[1]


def test_a_token_that_is_none_is_refused() -> None:
    with pytest.raises(OverflowError):
        Chain(KEY, "t", [-1])
