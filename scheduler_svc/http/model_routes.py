"""The routes whose answers are one model's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scheduler_svc.frontend.front_end import FrontEnd
from scheduler_svc.frontend.front_ends import FrontEnds
from scheduler_svc.http.call import Answer, Call
from scheduler_svc.http.chat import Chat
from scheduler_svc.http.completions import Completions
from scheduler_svc.http.sse import OpenStreams
from scheduler_svc.http.tokenize import Tokenize
from scheduler_svc.http.values import text


class _Routes:
    def __init__(self, front_end: FrontEnd, streams: OpenStreams) -> None:
        self.completions = Completions(front_end, streams)
        self.chat = Chat(front_end, streams)
        self.tokenize = Tokenize(front_end)


class ModelRoutes:
    """Each request goes to the model that its body names. All raise NotFound for another."""

    def __init__(self, front_ends: FrontEnds, streams: OpenStreams) -> None:
        self._front_ends = front_ends
        self._routes = {each.model: _Routes(each, streams) for each in front_ends.all}

    async def completion(self, call: Call) -> Answer:
        return await self._of(call.body).completions(call)

    async def whole_completion(self, call: Call) -> dict[str, Any]:
        return await self._of(call.body).completions.complete(call)

    async def chat(self, call: Call) -> Answer:
        return await self._of(call.body).chat(call)

    async def whole_chat(self, call: Call) -> dict[str, Any]:
        return await self._of(call.body).chat.complete(call)

    async def tokenize(self, body: Mapping[str, Any]) -> dict[str, Any]:
        return await self._of(body).tokenize.tokenize(body)

    async def detokenize(self, body: Mapping[str, Any]) -> dict[str, Any]:
        return await self._of(body).tokenize.detokenize(body)

    def _of(self, body: Mapping[str, Any]) -> _Routes:
        return self._routes[self._front_ends.of(text(body, "model")).model]
