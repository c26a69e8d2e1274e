"""The fixtures of the queue's tests."""

from tests.scheduler_svc.queue.conftest import keys, model, queue, redis

__all__ = ["keys", "model", "queue", "redis"]
