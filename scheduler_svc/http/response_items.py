"""A response's output: its items, and the events that tell how they come to be.

An event's number is a pure function of the text up to it: 16 times the characters that are
certain then, and its place among what happens there. So whoever tells a response, and however
its text was cut into pieces, says the same with the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scheduler_svc.http.chat_form import call_id
from scheduler_svc.http.ids import unique_of
from scheduler_svc.text.speech import Manner, Piece, Speech

STRIDE = 16
CREATED, IN_PROGRESS = 0, 1
# Places of what happens at one character: what ends there, then what begins there.
_DELTA, _TEXT_DONE, _PART_DONE, _ITEM_DONE, TERMINAL, _ITEM_ADDED, _PART_ADDED = 0, 2, 3, 4, 7, 8, 9
_KINDS = {"content": "message", "reasoning": "reasoning"}


@dataclass(frozen=True, slots=True)
class ItemEvent:
    """An event without what all of a stream have in common."""

    number: int
    kind: str
    fields: dict[str, Any]


class ResponseItems:
    """Takes an output's text apart into items. Feed all of it, then ``finish``."""

    def __init__(self, job_id: str, manner: Manner, one_call: bool) -> None:
        self._job_id = job_id
        self._speech = Speech(manner)
        self._one_call = one_call
        self._num_chars = 0
        self._open: tuple[str, int] | None = None
        self.items: list[dict[str, Any]] = []

    def feed(self, text: str) -> list[ItemEvent]:
        """Return what happens with some more text."""
        self._num_chars += len(text)
        return self._events(self._speech.feed(text))

    def finish(self, status: str) -> list[ItemEvent]:
        """Return what happens at the end; the last item's status is then ``status``."""
        events = self._events(self._speech.finish())
        return events + self._close(self._num_chars, status)

    @property
    def terminal_number(self) -> int:
        """The number of the event after which nothing comes."""
        return self._num_chars * STRIDE + TERMINAL

    def _events(self, pieces: Sequence[Piece]) -> list[ItemEvent]:
        events = []
        for piece in pieces:
            if self._one_call and piece.call > 0:
                continue
            kind = _KINDS.get(piece.kind, "function_call")
            if self._open != (kind, piece.call):
                events += self._close(piece.start, "completed")
                events += self._begin(kind, piece)
            if piece.kind != "call":
                events.append(self._delta(piece))
        return events

    def _begin(self, kind: str, piece: Piece) -> list[ItemEvent]:
        self._open = kind, piece.call
        self.items.append(self._new_item(kind, piece))
        at = piece.start * STRIDE
        events = [self._event(at + _ITEM_ADDED, "output_item.added", item=_copy(self._item))]
        if kind != "function_call":
            self._item["content"].append(_part(kind, ""))
            part = _part(kind, "")
            events.append(
                self._event(at + _PART_ADDED, "content_part.added", **self._of_part(), part=part)
            )
        return events

    def _new_item(self, kind: str, piece: Piece) -> dict[str, Any]:
        unique, number = unique_of(self._job_id), len(self.items)
        item: dict[str, Any] = {"type": kind, "status": "in_progress"}
        if kind == "function_call":
            called = call_id(self._job_id, 0, piece.call)
            return {"id": f"fc_{unique}_{number}", **item, "call_id": called, "name": piece.text,
                    "arguments": ""}  # fmt: skip
        if kind == "reasoning":
            return {"id": f"rs_{unique}_{number}", **item, "summary": [], "content": []}
        return {"id": f"msg_{unique}_{number}", **item, "role": "assistant", "content": []}

    def _delta(self, piece: Piece) -> ItemEvent:
        number, item = piece.end * STRIDE + _DELTA, self._item
        if item["type"] == "function_call":
            item["arguments"] += piece.text
            kind = "function_call_arguments.delta"
            return self._event(number, kind, item_id=item["id"], delta=piece.text)
        item["content"][0]["text"] += piece.text
        fields: dict[str, Any] = {**self._of_part(), "delta": piece.text}
        if item["type"] == "message":
            fields["logprobs"] = []
        return self._event(number, f"{_text_kind(item)}.delta", **fields)

    def _close(self, position: int, status: str) -> list[ItemEvent]:
        if self._open is None:
            return []
        self._open, item, at = None, self._item, position * STRIDE
        item["status"] = status
        if item["type"] == "function_call":
            fields = {"item_id": item["id"], "name": item["name"], "arguments": item["arguments"]}
            events = [self._event(at + _TEXT_DONE, "function_call_arguments.done", **fields)]
        else:
            [part] = item["content"]
            fields = {**self._of_part(), "text": part["text"]}
            if item["type"] == "message":
                fields["logprobs"] = []
            events = [
                self._event(at + _TEXT_DONE, f"{_text_kind(item)}.done", **fields),
                self._event(
                    at + _PART_DONE, "content_part.done", **self._of_part(), part=dict(part)
                ),
            ]
        done = self._event(at + _ITEM_DONE, "output_item.done", item=_copy(item))
        return [*events, done]

    def _event(self, number: int, kind: str, **fields: Any) -> ItemEvent:
        index = len(self.items) - 1
        return ItemEvent(number, f"response.{kind}", {"output_index": index, **fields})

    def _of_part(self) -> dict[str, Any]:
        return {"item_id": self._item["id"], "content_index": 0}

    @property
    def _item(self) -> dict[str, Any]:
        return self.items[-1]


def _part(kind: str, text: str) -> dict[str, Any]:
    if kind == "reasoning":
        return {"type": "reasoning_text", "text": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _text_kind(item: dict[str, Any]) -> str:
    return "reasoning_text" if item["type"] == "reasoning" else "output_text"


def _copy(item: dict[str, Any]) -> dict[str, Any]:
    """Return an item as it is now."""
    if "content" not in item:
        return dict(item)
    return {**item, "content": [dict(part) for part in item["content"]]}
