"""Pseudonyms of tokens that are equal exactly where everything up to them is."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from copy import copy
from hashlib import blake2b

# An item of both arrays is 32 bits, like a token id on the wire.
_ITEM = "I"


class Chain:
    """One sequence's tokens so far, prompt and output, each with its pseudonym.

    The pseudonym of a token is 32 bits of a keyed hash (BLAKE2b) of the tenant and of every
    token up to it. Without the key, which nobody keeps, it says one thing: which sequences
    of a tenant begin alike, and for how long; the same token elsewhere has another one. Two
    continuations of one beginning are taken for each other once in 2**32, and a block of
    them, which is what a core compares, far more rarely still.
    """

    def __init__(self, key: bytes, tenant: str, prompt_token_ids: Sequence[int]) -> None:
        digest = blake2b(tenant.encode(), key=key, person=b"tenant")
        self._hash = blake2b(digest.digest(), digest_size=4, key=key, person=b"token")
        self._token_ids = array(_ITEM)
        self._pseudonyms = array(_ITEM)
        self.num_prompt_tokens = len(prompt_token_ids)
        self.extend(prompt_token_ids)

    def extend(self, token_ids: Sequence[int]) -> None:
        """Append tokens. Raises OverflowError for one that is no unsigned 32-bit number."""
        self._token_ids.extend(token_ids)
        token_hash, append = self._hash, self._pseudonyms.append
        for token_id in token_ids:
            token_hash.update(token_id.to_bytes(4, "little"))
            append(int.from_bytes(token_hash.digest(), "little"))

    def fork(self) -> Chain:
        """Return a chain that goes on from here on its own."""
        other = copy(self)
        other._hash = self._hash.copy()
        other._token_ids = self._token_ids[:]
        other._pseudonyms = self._pseudonyms[:]
        return other

    def pseudonyms(self, token_ids: Sequence[int], first: int = 0) -> Sequence[int] | None:
        """Return those of ``token_ids`` from the ``first`` one on; None where it has others."""
        end = first + len(token_ids)
        if self._token_ids[first:end] != array(_ITEM, token_ids):
            return None
        return self._pseudonyms[first:end]

    def pseudonym(self, token_id: int, position: int) -> int | None:
        """Return that of the token at ``position``; None where another one is there.

        One that comes next is appended.
        """
        if position == len(self._token_ids):
            self.extend((token_id,))
        elif not 0 <= position < len(self._token_ids) or self._token_ids[position] != token_id:
            return None
        return self._pseudonyms[position]
