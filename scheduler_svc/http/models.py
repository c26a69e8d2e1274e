"""``/v1/models``: what is served."""

from __future__ import annotations

import time
from typing import Any

from scheduler_svc.frontend.front_ends import FrontEnds
from scheduler_svc.http.errors import ApiError
from stepserve.protocol.inference import ModelInfo


class Models:
    """Tells of the served models, with vLLM's ``max_model_len``."""

    def __init__(self, front_end: FrontEnds) -> None:
        self._front_end = front_end
        self._created_s = int(time.time())

    async def all(self) -> dict[str, Any]:
        """Return the list."""
        found = await self._front_end.models()
        return {"object": "list", "data": [self._model(each) for each in found]}

    async def one(self, name: str) -> dict[str, Any]:
        """Return one. Raises ApiError where it is not served."""
        for each in await self._front_end.models():
            if each.name == name:
                return self._model(each)
        message = f"model {name[:100]!r} is not served here"
        raise ApiError(404, message, param="model", code="model_not_found")

    def _model(self, info: ModelInfo) -> dict[str, Any]:
        return {
            "id": info.name,
            "object": "model",
            "created": self._created_s,
            "owned_by": "stepserve",
            "root": info.name,
            "parent": None,
            "max_model_len": info.max_context,
        }
