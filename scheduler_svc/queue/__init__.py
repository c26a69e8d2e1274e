"""The durable queue in Redis, and what it is asked and answers with."""

from scheduler_svc.order import Order
from scheduler_svc.queue.attendance import Fleet
from scheduler_svc.queue.backlog import Backlog, Waiting
from scheduler_svc.queue.claiming import Prefer, SuspectClaim
from scheduler_svc.queue.codec import RECORD_ERRORS, Corrupt, decode_logprobs, encode_logprobs
from scheduler_svc.queue.embedded import EmbeddedRedis
from scheduler_svc.queue.follower import Follower, News
from scheduler_svc.queue.job_reader import page_of
from scheduler_svc.queue.kept import num_missing, with_cached, with_edge
from scheduler_svc.queue.lease import Fenced, Lease, Renewal, WorkerRecord
from scheduler_svc.queue.limits import FULL_SHARE, QueueLimits
from scheduler_svc.queue.line import WaitingJob
from scheduler_svc.queue.listing import Place
from scheduler_svc.queue.queue import JobQueue
from scheduler_svc.queue.quota import Account, Quota, QuotaExceeded, Standing
from scheduler_svc.queue.registry import Registry, Sighting
from scheduler_svc.queue.rows import APPLIED, LogRequest, RowAnswer, RowKind
from scheduler_svc.queue.shelf import Shelf, ShelfFull
from scheduler_svc.queue.snapshot import JobSnapshot, JobState, OutputSnapshot, stored_now
from scheduler_svc.queue.submitting import Submitted
from scheduler_svc.queue.suspicion import Accused

__all__ = [
    "APPLIED",
    "FULL_SHARE",
    "RECORD_ERRORS",
    "Account",
    "Accused",
    "Backlog",
    "Corrupt",
    "EmbeddedRedis",
    "Fenced",
    "Fleet",
    "Follower",
    "JobQueue",
    "JobSnapshot",
    "JobState",
    "Lease",
    "LogRequest",
    "News",
    "Order",
    "OutputSnapshot",
    "Place",
    "Prefer",
    "QueueLimits",
    "Quota",
    "QuotaExceeded",
    "Registry",
    "Renewal",
    "RowAnswer",
    "RowKind",
    "Shelf",
    "ShelfFull",
    "Sighting",
    "Standing",
    "Submitted",
    "SuspectClaim",
    "Waiting",
    "WaitingJob",
    "WorkerRecord",
    "decode_logprobs",
    "encode_logprobs",
    "num_missing",
    "page_of",
    "stored_now",
    "with_cached",
    "with_edge",
]
