"""Who stands at a door: asked for a key where there are keys, and believed where there are none."""

from __future__ import annotations

from scheduler_svc.access.caller import LATER_PRIORITY, Caller
from scheduler_svc.access.keyring import Keyring
from stepserve.protocol.errors import Unauthenticated, Unavailable

_SCHEME = "bearer"


class Guard:
    """Says who a caller is, by what they show."""

    def __init__(self, keyring: Keyring | None = None) -> None:
        self._keyring = keyring

    @classmethod
    def of(cls, path: str) -> Guard:
        """Return one for a file of keys, "" for none. Raises BadKeyFile."""
        return cls(Keyring(path) if path else None)

    def caller(self, authorization: str) -> Caller:
        """Return who shows this ("Bearer KEY"). Raises Unauthenticated where it is no key."""
        if self._keyring is None:
            return Caller()
        scheme, _, secret = authorization.strip().partition(" ")
        if not secret:
            raise Unauthenticated(
                "an API key is needed: send it as `authorization: Bearer KEY`"
                if not scheme
                else "the authorization is not of the form `Bearer KEY`"
            )
        key = self._keyring.find(secret.strip()) if scheme.lower() == _SCHEME else None
        if key is None:
            raise Unauthenticated("the API key is not known here")
        return Caller(None if key.is_operator else key.tenant, key)

    def later(self, key_id: str, tenant: str) -> Caller:
        """Return who asked for something that is done now, with the key of this name.

        Raises Unauthenticated where that key is good no more, and Unavailable where it may be
        one that this process has not been told of yet.
        """
        if self._keyring is None or not key_id:
            return Caller(tenant, usual_priority=LATER_PRIORITY)
        key = self._keyring.named(key_id)
        if key is not None:
            return Caller(tenant, key, LATER_PRIORITY)
        if self._keyring.may_come(key_id):
            raise Unavailable("the API key that this was asked with is not known here yet")
        raise Unauthenticated("the API key that this was asked with is not known any more")
