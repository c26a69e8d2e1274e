"""Which jobs are listed, and where a list goes on."""

from __future__ import annotations

import base64
import json
import math
from dataclasses import dataclass

from scheduler_svc.queue import Place
from stepserve.protocol.errors import InvalidRequest
from stepserve.protocol.inference import JobState

DEFAULT_LISTED_JOBS = 100
MAX_LISTED_JOBS = 1000
# A tenant's name of 128 characters may be in it.
_MAX_TOKEN_CHARS = 2048


@dataclass(frozen=True, slots=True)
class Listing:
    """At most ``limit`` jobs (0: 100) of a state and a tenant, from ``page_token`` on."""

    state: JobState | None = None
    tenant: str = ""
    limit: int = 0
    page_token: str = ""

    @property
    def num_jobs(self) -> int:
        """Raises InvalidRequest where it is more than there can be."""
        if not 0 <= self.limit <= MAX_LISTED_JOBS:
            raise InvalidRequest("limit", f"must be at most {MAX_LISTED_JOBS}")
        return self.limit or DEFAULT_LISTED_JOBS

    @property
    def after(self) -> Place | None:
        """Behind which job it goes on. Raises InvalidRequest for a token of no such list."""
        if not self.page_token:
            return None
        if len(self.page_token) > _MAX_TOKEN_CHARS:
            raise InvalidRequest("page_token", "is none of ours")
        try:
            state, tenant, score, job_id = json.loads(base64.urlsafe_b64decode(self.page_token))
            place = Place(float(score), str(job_id))
        except (ValueError, TypeError, RecursionError) as error:
            raise InvalidRequest("page_token", "is none of ours") from error
        if not math.isfinite(place.score):
            raise InvalidRequest("page_token", "is none of ours")
        if (state, tenant) != (self.state, self.tenant):
            raise InvalidRequest("page_token", "is of a list of another state or tenant")
        return place

    def token(self, after: Place | None) -> str:
        """Return what goes on behind a job; empty for None."""
        if after is None:
            return ""
        values = json.dumps(
            [self.state, self.tenant, after.score, after.job_id], ensure_ascii=False
        )
        return base64.urlsafe_b64encode(values.encode()).decode()
