"""The keys of a file, by what is shown, and by their names; as the file is now."""

from __future__ import annotations

import logging
from pathlib import Path
from time import monotonic

from scheduler_svc.access.api_key import MAX_KEY_CHARS, ApiKey, digest_of
from scheduler_svc.access.key_file import BadKeyFile, read_keys
from stepserve.tls.watched import WatchedFiles

log = logging.getLogger(__name__)

# How long a key that was taken out of the file may still be believed.
LOOK_INTERVAL_S = 1.0
# How long a key may be known elsewhere before its file comes here: orchestrators take minutes.
COMES_WITHIN_S = 300.0


class Keyring:
    """Looks at the file when it is asked, once a second at most.

    While the file can't be read, or is none, the keys that were there before are good.
    """

    def __init__(self, path: str) -> None:
        """Raise BadKeyFile where there is no file of keys."""
        self._path = Path(path)
        # Names of keys that were here, and since when others were asked for in vain.
        self._was_here: set[str] = set()
        self._missed_s: dict[str, float] = {}
        self._files = WatchedFiles([path])
        self._files.look()
        self._take(read_keys(self._path))
        self._looked_s = monotonic()
        if not self._by_digest:
            log.warning("%s has no API key: nobody is let in until there is one", path)

    def find(self, secret: str) -> ApiKey | None:
        """Return the key that somebody shows, None where it is none of ours."""
        self._look()
        if len(secret) > MAX_KEY_CHARS:
            return None
        return self._by_digest.get(digest_of(secret))

    def named(self, key_id: str) -> ApiKey | None:
        """Return the key of a name, None where there is none any more."""
        self._look()
        return self._by_id.get(key_id)

    def may_come(self, key_id: str) -> bool:
        """Whether a key that others know may be one that was made of late, and not removed.

        ``key_id`` is a name that somebody believed whom we believe.
        """
        missed_s = self._missed_s.setdefault(key_id, monotonic())
        return key_id not in self._was_here and monotonic() - missed_s < COMES_WITHIN_S

    def _look(self) -> None:
        if monotonic() - self._looked_s < LOOK_INTERVAL_S:
            return
        self._looked_s = monotonic()
        if not self._files.look():
            return
        try:
            keys = read_keys(self._path)
        except BadKeyFile as error:
            log.error("%s; the keys before stay good", error)
            return
        self._take(keys)
        log.info("there are %d API keys now", len(keys))

    def _take(self, keys: tuple[ApiKey, ...]) -> None:
        self._by_digest = {key.sha256: key for key in keys}
        self._by_id = {key.key_id: key for key in keys}
        self._was_here |= self._by_id.keys()
