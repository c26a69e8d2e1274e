"""Every key of a shard, and those of none; queue.lua's header says what each holds."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from urllib.parse import quote

from scheduler_svc.queue.resp import packed

# No shard's name comes to these: a "{" follows its "ss:".
REGISTRY_TOLD = "ss:registry:{workers}:told"
REGISTRY_SEEN = "ss:registry:{workers}:seen"
# Outputs whose keys are kept ready: more than the lanes of a process run, and 300 bytes each.
_MAX_NAMED = 16384


class Keys:
    """The keys of one model's shard. One hash tag keeps them together in a Redis Cluster.

    The model's name is percent-encoded, so no name can break out of the tag.
    """

    def __init__(self, model: str) -> None:
        if not model:
            raise ValueError("a shard is named by a model; the name is empty")
        prefix = f"ss:{{{quote(model, safe='/')}}}:"
        self._prefix = prefix
        self.queue = prefix + "queue"
        self.jobs = prefix + "jobs"
        self.ahead = prefix + "ahead"
        self.ended = prefix + "ended"
        self.ended_bytes = prefix + "ended_bytes"
        self.unweighed = prefix + "unweighed"
        self.deadlines = prefix + "deadlines"
        self.workers = prefix + "workers"
        self.epoch = prefix + "epoch"
        self.schedulers = prefix + "schedulers"
        self.reaches = prefix + "reaches"
        self.suspects = prefix + "suspects"
        self.canary = prefix + "canary"
        self.stranded = prefix + "stranded"
        self.watched = prefix + "watched"
        self.live = prefix + "live"
        self.rings = prefix + "rings"
        self.bell = prefix + "bell"
        self.order = prefix + "order"
        self.unranked = prefix + "unranked"
        self.lengths = prefix + "lengths"
        self.counters = prefix + "counters"
        self.pace = prefix + "pace"
        self.vtime = prefix + "vtime"
        self.quotas = prefix + "quotas"
        self.job_prefix = prefix + "job:"
        self._log = prefix + "log:"
        self._lp = prefix + "lp:"
        self._followers = prefix + "followers:"
        self._idem = prefix + "idem:"
        self._lease = prefix + "lease:"
        self._claims = prefix + "claims:"
        # The keys of a job and of an output's log, as they are sent: each step and each read of a
        # stream names them again.
        self.output = lru_cache(_MAX_NAMED)(self._output)

    def shelf(self, kind: str) -> str:
        return f"{self._prefix}shelf:{kind}"

    def shelved(self, part: str, kind: str, record_id: str) -> str:
        """``part``: "record", "data", "lines" or "minder"."""
        return f"{self._prefix}{part}:{kind}:{record_id}"

    def _output(self, job_id: str, index: int) -> bytes:
        return packed([self.job(job_id), self.log(job_id, index)])

    def job(self, job_id: str) -> str:
        return self.job_prefix + job_id

    def log(self, job_id: str, index: int) -> str:
        return f"{self._log}{job_id}:{index}"

    def lp(self, job_id: str, index: int) -> str:
        return f"{self._lp}{job_id}:{index}"

    def followers(self, job_id: str) -> str:
        return self._followers + job_id

    def idem(self, digest: str) -> str:
        return self._idem + digest

    def lease(self, worker_id: str) -> str:
        return self._lease + worker_id

    def claims(self, worker_id: str) -> str:
        return self._claims + worker_id


def idempotency_digest(tenant: str, key: str) -> str:
    """Of bounded length whatever a client sends; empty for no key."""
    if not key:
        return ""
    return hashlib.sha256(f"{len(tenant)}:{tenant}{key}".encode()).hexdigest()
