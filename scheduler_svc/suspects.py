"""Whom to try next of those that were there when a worker crashed, and what comes of it.

All rows of a step are in it together, so a crash accuses them all. What a job is accused of is
one number, its strikes: 0 for nothing, then one more for each crash that it was at in company,
``ALONE`` for one in which nobody else was there, ``GUILTY`` for two of these. Suspects are tried
apart from everybody else, half of those with the most strikes at a time. Who gets past the
place where it was when the worker crashed is cleared.

A crash leaves at most half of the company with more strikes than before, and they are tried
first, so a job that crashes its worker whenever it gets to one place is alone after
ceil(log2 B) crashes, B being how many were there at the first, and convicted after one more.
Nobody is convicted in company: whatever else goes wrong, it is never another's doing.

The script "strike" of ``queue.lua`` is the twin of ``struck``.
"""

from __future__ import annotations

from collections.abc import Mapping

ALONE, GUILTY = 100, 101
# So often must a job be there when a worker is killed, hangs or is cut off, without getting any
# further in between, before that accuses it like a crash.
MAX_LOSSES = 3


def struck(strikes: int, *, is_alone: bool) -> int:
    """Return a job's strikes after a crash, of which it had ``strikes`` before."""
    if is_alone:
        return GUILTY if strikes >= ALONE else ALONE
    return max(strikes, min(strikes + 1, ALONE - 1))


def next_trial(waiting: Mapping[str, int]) -> list[str]:
    """Return whom of the suspects that wait to try together now.

    ``waiting`` are their strikes by id, first in line first. Nobody but the guilty is never
    returned; empty only where nobody else is left.
    """
    strikes = [count for count in waiting.values() if 0 < count < GUILTY]
    if not strikes:
        return []
    most = max(strikes)
    accused = [job_id for job_id, count in waiting.items() if count == most]
    return accused[:1] if most == ALONE else accused[: -(-len(accused) // 2)]
