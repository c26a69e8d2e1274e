"""The files that a batch comes to: its answers, and its errors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Sequence

from scheduler_svc.frontend.batches import Batch, Batches
from scheduler_svc.frontend.files import DEFAULT_TTL_S, Files, new_file

_PAGE = 64


async def write_outputs(
    batches: Batches, files: Files, batch: Batch, numbers: Sequence[int]
) -> tuple[str, str]:
    """Write both from what was noted of these lines; return their ids, empty where nothing is.

    The ids follow from the batch's: what was half written before is written anew.
    """
    written = []
    for purpose, is_good in (("output", True), ("error", False)):
        digest = hashlib.sha256(f"{batch.batch_id} {purpose}".encode()).hexdigest()
        name = f"{batch.batch_id}_{purpose}.jsonl"
        file = new_file(batch.tenant, name, "batch_output", DEFAULT_TTL_S, f"file-{digest[:32]}")
        await files.forget_half(file.file_id)
        kept = await files.keep(file, _notes(batches, batch, numbers, is_good))
        if not kept.size_bytes:
            await files.forget_half(file.file_id)
        written.append(kept.file_id if kept.size_bytes else "")
    return written[0], written[1]


async def _notes(
    batches: Batches, batch: Batch, numbers: Sequence[int], is_good: bool
) -> AsyncIterator[bytes]:
    for start in range(0, len(numbers), _PAGE):
        page = await batches.notes(batch.batch_id, numbers[start : start + _PAGE])
        lines = [text for _, text in sorted(page.items()) if _is_good(text) == is_good]
        if lines:
            yield ("\n".join(lines) + "\n").encode()


def _is_good(note: str) -> bool:
    response = json.loads(note)["response"]
    return response is not None and response["status_code"] == 200
