"""Whether an address may be served on: what others can reach needs keys and encryption."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Sequence

from stepserve.protocol.errors import StepserveError

log = logging.getLogger(__name__)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it. A name other than localhost may be anything."""
    bare = host.strip("[]")
    if bare == "localhost":
        return True
    try:
        return ipaddress.ip_address(bare).is_loopback
    except ValueError:
        return False


def check_exposure(host: str, lacks: Sequence[str], *, insecure: bool, cure: str) -> None:
    """Raise StepserveError where others reach ``host``, and something is lacking for that.

    With ``insecure`` it is said in the log instead. ``cure`` says what to give.
    """
    if not lacks or is_loopback(host):
        return
    what = f"others can reach {host}, and there is no {' and no '.join(lacks)}"
    if not insecure:
        raise StepserveError(
            f"{what}: give {cure}, or --insecure where something else keeps others out; "
            "see docs/security.md"
        )
    log.warning("%s (--insecure): whoever reaches it is let in, or can read along", what)
