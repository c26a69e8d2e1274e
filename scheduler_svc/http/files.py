"""``/v1/files``: what batches are made of, and what comes of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette.datastructures import FormData, UploadFile
from starlette.responses import StreamingResponse

from scheduler_svc.frontend.files import (
    CHUNK_BYTES,
    DEFAULT_TTL_S,
    MAX_FILE_BYTES,
    File,
    Files,
    new_file,
)
from scheduler_svc.http.call import Answer
from scheduler_svc.http.errors import api_error, invalid, not_found
from scheduler_svc.http.page import page_of

MAX_NAME_CHARS = 512
# Of the form around a file.
MAX_FORM_BYTES = MAX_FILE_BYTES + 64 * 1024
UPLOAD_TIMEOUT_S = 600.0
_MIN_TTL_S = 3600
_PURPOSES = ("batch",)


class FileRoutes:
    """Takes files and gives them back."""

    def __init__(self, files: Files) -> None:
        self._files = files

    async def create(self, form: FormData, tenant: str) -> dict[str, Any]:
        """Keep an uploaded file. Raises ApiError."""
        upload = form.get("file")
        if not isinstance(upload, UploadFile):
            raise invalid("file", "is missing: a file in a multipart form is needed")
        if form.get("purpose") not in _PURPOSES:
            raise invalid("purpose", "must be 'batch': files serve nothing else here")
        size = upload.size or 0
        if not 0 < size <= MAX_FILE_BYTES:
            raise invalid("file", f"must have 1 to {MAX_FILE_BYTES} bytes")
        await self._files.check_room(size)
        name = (upload.filename or "file")[:MAX_NAME_CHARS]
        file = new_file(tenant, name, "batch", _ttl_s(form))
        return shown(await self._files.keep(file, _pieces(upload)))

    async def all(self, query: Mapping[str, str], tenant: str) -> dict[str, Any]:
        """Return a page of the tenant's files. Raises ApiError."""
        purpose = query.get("purpose", "")
        files = [f for f in await self._files.all(tenant) if purpose in ("", f.purpose)]
        return page_of([shown(file) for file in files], query, default_limit=10_000)

    async def get(self, file_id: str, tenant: str) -> dict[str, Any]:
        """Return a file without its content. Raises ApiError."""
        return shown(await self._file(file_id, tenant))

    async def content(self, file_id: str, tenant: str) -> Answer:
        """Return what is in a file. Raises ApiError."""
        file = await self._file(file_id, tenant)
        headers = {"content-length": str(file.size_bytes)}
        return StreamingResponse(
            self._files.content(file), headers=headers, media_type="application/octet-stream"
        )

    async def delete(self, file_id: str, tenant: str) -> dict[str, Any]:
        """Forget a file. Raises ApiError."""
        await self._file(file_id, tenant)
        await self._files.delete(file_id, tenant)
        return {"id": file_id, "object": "file", "deleted": True}

    async def _file(self, file_id: str, tenant: str) -> File:
        if not file_id.isascii() or len(file_id) > 100:
            raise not_found(f"file {file_id[:100]!r}")
        try:
            return await self._files.get(file_id, tenant)
        except Exception as error:
            raise api_error(error) from error


def shown(file: File) -> dict[str, Any]:
    """Return a file as clients see it."""
    return {
        "id": file.file_id,
        "object": "file",
        "bytes": file.size_bytes,
        "created_at": file.created_s,
        "expires_at": file.expires_s,
        "filename": file.name,
        "purpose": file.purpose,
        "status": "processed",
    }


def _ttl_s(form: FormData) -> int:
    given = form.get("expires_after[seconds]")
    if given is None:
        return DEFAULT_TTL_S
    if not (isinstance(given, str) and given.isascii() and given.isdigit() and len(given) < 10):
        raise invalid("expires_after[seconds]", "must be a number of seconds")
    if not _MIN_TTL_S <= int(given) <= DEFAULT_TTL_S:
        problem = f"must be from {_MIN_TTL_S} to {DEFAULT_TTL_S}"
        raise invalid("expires_after[seconds]", problem)
    return int(given)


async def _pieces(upload: UploadFile) -> AsyncIterator[bytes]:
    while piece := await upload.read(CHUNK_BYTES):
        yield piece
