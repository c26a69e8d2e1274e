"""What a model says, taken apart while it is being said: reasoning, content, calls of tools.

The parts of a text do not depend on how it was fed: where a stream is cut off, its text can be
fed again up to there, and goes on as it would have.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, TypeAlias

from scheduler_svc.text.tool_call import ToolCallReader

CallStyle: TypeAlias = Literal["none", "tags", "bare"]
PieceKind: TypeAlias = Literal["reasoning", "content", "call", "arguments"]

THINK, THINK_END = "<think>", "</think>"
CALL, CALL_END = "<tool_call>", "</tool_call>"


@dataclass(frozen=True, slots=True)
class Manner:
    """How a model writes what is not content.

    ``thinks``: reasoning stands between think tags; ``begins_thinking``: its prompt opened the
    first. Calls stand between tags (Hermes, Qwen), or are the whole output (Llama), then only of
    the ``tools``.
    """

    thinks: bool = False
    begins_thinking: bool = False
    calls: CallStyle = "none"
    tools: tuple[str, ...] = ()

    @property
    def is_plain(self) -> bool:
        """Whether all of it is content."""
        return not self.thinks and self.calls == "none"


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of one kind, certain once the characters before ``end`` are known.

    Of a "call", which is followed by its "arguments", ``text`` is the function's name and
    ``call`` its number.
    """

    kind: PieceKind
    text: str
    start: int
    end: int
    call: int = -1


def manner_of(template: str, prompt: str, tools: Collection[str]) -> Manner:
    """Return how a model with this chat template answers this prompt, which may use ``tools``."""
    calls: CallStyle = "none"
    if tools:
        calls = "bare" if CALL not in template and "parameters" in template else "tags"
    return Manner(
        thinks=THINK_END in template,
        begins_thinking=prompt.rstrip().endswith(THINK),
        calls=calls,
        tools=tuple(tools),
    )


class Speech:
    """Takes one output apart. Feed all of its text, then ``finish``."""

    def __init__(self, manner: Manner) -> None:
        self._manner = manner
        self._held = ""
        self._at = 0  # where what is held begins
        self._state: Literal["content", "reasoning", "call", "after"] = (
            "reasoning" if manner.begins_thinking else "content"
        )
        self._is_fresh = not manner.is_plain  # spaces at the beginning of a run are no part of it
        self._has_content = False
        self._reader = ToolCallReader()
        self._call_start = self._body_start = self._name_end = 0
        self._num_shown = -1  # characters of the call's arguments, -1 before its name
        self.num_calls = 0

    def feed(self, text: str) -> list[Piece]:
        """Return what is certain now and was not before."""
        return self._advance(text, is_last=False)

    def finish(self) -> list[Piece]:
        """Return the rest."""
        return self._advance("", is_last=True)

    def _advance(self, text: str, *, is_last: bool) -> list[Piece]:
        self._held += text
        pieces: list[Piece] = []
        while self._turn(pieces, is_last=is_last):
            pass
        return pieces

    def _turn(self, pieces: list[Piece], *, is_last: bool) -> bool:
        """Take what is one part of what is held; whether another may follow."""
        if self._state == "call":
            return self._take_call(pieces, is_last=is_last)
        if self._state == "after":
            return self._skip_end(is_last=is_last)
        if self._is_fresh:
            self._skip(len(self._held) - len(self._held.lstrip()))
        may_begin = self._held and self._state == "content" and not self._has_content
        if may_begin and (opened := self._open_first(is_last=is_last)) is not None:
            return opened
        return bool(self._held) and self._take_text(pieces, is_last=is_last)

    def _open_first(self, *, is_last: bool) -> bool | None:
        """Begin what only stands where nothing was said yet; None where none of it does."""
        if self._manner.calls == "bare" and self._held.startswith("{"):
            return self._open_call(0)
        if not self._manner.thinks or not THINK.startswith(self._held[: len(THINK)]):
            return None
        if len(self._held) < len(THINK):
            return None if is_last else False
        self._skip(len(THINK))
        self._state, self._is_fresh = "reasoning", True
        return True

    def _take_text(self, pieces: list[Piece], *, is_last: bool) -> bool:
        tags = self._tags()
        found = [(at, tag) for tag in tags if (at := self._held.find(tag)) >= 0]
        if not found:
            self._show(pieces, len(self._held) if is_last else self._certain(tags))
            return False
        at, tag = min(found)
        # Spaces before a tag are no part of the text either.
        self._show(pieces, len(self._held[:at].rstrip()))
        self._skip(self._held.index(tag))
        if tag == CALL:
            return self._open_call(len(CALL))
        self._skip(len(tag))
        self._state, self._is_fresh = "content", True
        return True

    def _tags(self) -> list[str]:
        if self._state == "reasoning":
            return [THINK_END]
        return [CALL] if self._manner.calls == "tags" else []

    def _certain(self, tags: list[str]) -> int:
        """How much of what is held no tag can follow so that it would be none of the text."""
        if not tags:
            return len(self._held)
        end = min(_begun(self._held, tag) for tag in tags)
        return len(self._held[:end].rstrip())

    def _show(self, pieces: list[Piece], count: int) -> None:
        if count:
            kind: PieceKind = "reasoning" if self._state == "reasoning" else "content"
            pieces.append(Piece(kind, self._held[:count], self._at, self._at + count))
            self._has_content = self._has_content or kind == "content"
            self._is_fresh = False
            self._skip(count)

    def _skip(self, count: int) -> None:
        self._held = self._held[count:]
        self._at += count

    def _open_call(self, num_tag: int) -> bool:
        self._call_start = self._at
        self._skip(num_tag)
        self._body_start = self._at
        self._state, self._reader, self._num_shown = "call", ToolCallReader(), -1
        return True

    def _take_call(self, pieces: list[Piece], *, is_last: bool) -> bool:
        reader = self._reader
        self._take_call_text(pieces)
        is_stranger = self._manner.calls == "bare" and reader.name not in self._manner.tools
        is_none = reader.is_broken or bool(reader.name and is_stranger)
        if self._num_shown < 0 and (is_none or reader.has_ended or is_last):
            return self._give_up_call(pieces)
        if reader.has_ended or reader.is_broken:
            if not self._num_shown and reader.has_ended:
                none = "{}"
                pieces.append(
                    Piece("arguments", none, self._at - len(none), self._at, self.num_calls)
                )
            self.num_calls += 1
            self._state = "after"
            return True
        return False

    def _take_call_text(self, pieces: list[Piece]) -> None:
        """Read on, so that what is told of where never depends on chunks."""
        reader, manner = self._reader, self._manner
        while self._held and not (reader.has_ended or reader.is_broken):
            self._skip(reader.feed(self._held))
            if not reader.name or (manner.calls == "bare" and reader.name not in manner.tools):
                if reader.name:
                    return
                continue
            if self._num_shown < 0:
                self._num_shown, self._name_end = 0, self._at
                pieces.append(
                    Piece("call", reader.name, self._call_start, self._at, self.num_calls)
                )
            if new := reader.arguments[self._num_shown :]:
                # A name may come last; what it stands for counts from there on.
                end = max(self._name_end, self._body_start + reader.num_arguments_read)
                pieces.append(Piece("arguments", new, end - len(new), end, self.num_calls))
                self._num_shown += len(new)

    def _give_up_call(self, pieces: list[Piece]) -> bool:
        """What began as a call is none: it is content."""
        tag = CALL if self._manner.calls == "tags" else ""
        pieces.append(Piece("content", tag + self._reader.raw, self._call_start, self._at))
        self._state, self._has_content, self._is_fresh = "content", True, False
        return bool(self._held)

    def _skip_end(self, *, is_last: bool) -> bool:
        """Pass over what stands between a call and what follows it."""
        self._skip(len(self._held) - len(self._held.lstrip()))
        end = CALL_END if self._manner.calls == "tags" else ";"
        if not self._held or (end.startswith(self._held) and self._held != end and not is_last):
            return False
        if self._held.startswith(end):
            self._skip(len(end))
        self._state, self._is_fresh = "content", True
        return True


def _begun(text: str, tag: str) -> int:
    """Return where a tag that ``text`` does not hold may have begun at its end, else its length."""
    start = max(0, len(text) - len(tag) + 1)
    while (start := text.find(tag[0], start)) >= 0:
        if tag.startswith(text[start:]):
            return start
        start += 1
    return len(text)
