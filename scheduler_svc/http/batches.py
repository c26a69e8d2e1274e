"""``/v1/batches``: files of requests, answered in a day."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scheduler_svc.frontend.batches import Batch, Batches, new_batch
from scheduler_svc.frontend.files import Files
from scheduler_svc.http.errors import ApiError, invalid, not_found
from scheduler_svc.http.page import page_of
from scheduler_svc.http.response_shown import metadata_of
from scheduler_svc.http.values import text
from stepserve.protocol.errors import NotFound

ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/responses")
WINDOW = "24h"
_FIELDS = ("input_file_id", "endpoint", "completion_window", "metadata")
_STATES = (
    "in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled",
)  # fmt: skip
_ENDED = ("completed", "failed", "expired", "cancelled")


class BatchRoutes:
    """Takes batches and tells how they stand; who works on them is another's affair."""

    def __init__(self, batches: Batches, files: Files) -> None:
        self._batches = batches
        self._files = files

    async def create(self, body: Mapping[str, Any], tenant: str, key_id: str) -> dict[str, Any]:
        """Store a batch, whose lines are asked with the key of that name. Raises ApiError."""
        for name in body:
            if name not in _FIELDS:
                message = f"Unknown parameter: {name[:100]!r}."
                raise ApiError(400, message, param=name[:100], code="unknown_parameter")
        endpoint = text(body, "endpoint")
        if endpoint not in ENDPOINTS:
            raise invalid("endpoint", f"must be one of {', '.join(ENDPOINTS)}")
        if text(body, "completion_window", WINDOW) != WINDOW:
            raise invalid("completion_window", f"must be {WINDOW!r}")
        file_id = text(body, "input_file_id")
        try:
            await self._files.get(file_id[:100], tenant)
        except NotFound:
            raise not_found(f"file {file_id[:100]!r}", "input_file_id") from None
        batch = new_batch(tenant, endpoint, file_id, metadata_of(body), key_id)
        await self._batches.keep(batch)
        return shown(batch)

    async def all(self, query: Mapping[str, str], tenant: str) -> dict[str, Any]:
        """Return a page of the tenant's batches. Raises ApiError."""
        return page_of(
            [shown(batch) for batch in await self._batches.all(tenant)], query, default_limit=20
        )

    async def get(self, batch_id: str, tenant: str) -> dict[str, Any]:
        """Return how a batch stands. Raises ApiError."""
        return shown(await self._batches.get(batch_id[:100], tenant))

    async def cancel(self, batch_id: str, tenant: str) -> dict[str, Any]:
        """Let a batch end with what it has. Raises ApiError where it has ended."""
        batch = await self._batches.get(batch_id[:100], tenant)
        if batch.status in _ENDED:
            raise ApiError(409, f"the batch is {batch.status} already", code="batch_ended")
        found = await self._batches.change(batch.batch_id, _cancelling)
        return shown(found or batch)


def _cancelling(batch: Batch) -> Batch:
    is_over = batch.status in (*_ENDED, "cancelling", "finalizing")
    return batch if is_over else batch.come_to("cancelling")


def shown(batch: Batch) -> dict[str, Any]:
    """Return a batch as clients see it."""
    errors = {"object": "list", "data": list(batch.errors)} if batch.errors else None
    counts = {"total": batch.total, "completed": batch.completed, "failed": batch.failed}
    return {
        "id": batch.batch_id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "errors": errors,
        "input_file_id": batch.input_file_id,
        "completion_window": WINDOW,
        "status": batch.status,
        "output_file_id": batch.output_file_id or None,
        "error_file_id": batch.error_file_id or None,
        "created_at": batch.created_s,
        "expires_at": batch.expires_s,
        **{f"{state}_at": batch.times.get(state) for state in _STATES},
        "request_counts": counts,
        "metadata": batch.metadata or None,
    }
