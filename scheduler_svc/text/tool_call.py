"""A function's call in a model's output: a JSON object, read while it is being written."""

from __future__ import annotations

import json
from typing import Any

ARGUMENTS_KEYS = ("arguments", "parameters")
_SPACE = " \t\r\n"


class ToolCallReader:
    """Reads {"name": ..., "arguments": {...}} character by character.

    ``arguments`` are the characters of that value so far, as they were written. It ``has_ended``
    with its closing brace, and ``is_broken`` where it can't become such an object any more.
    """

    def __init__(self) -> None:
        self.raw = ""
        self.name = ""
        self.has_ended = False
        self.is_broken = False
        self._depth = 0
        self._string_start = -1
        self._is_escaped = False
        self._key: Any = None
        self._has_colon = False
        self._value_start = -1
        self._arguments_start = -1
        self._arguments_end = -1

    @property
    def arguments(self) -> str:
        """The arguments as far as they are certain; a text that holds them once it is whole."""
        if self._arguments_start < 0:
            return ""
        end = self._arguments_end
        if self.raw[self._arguments_start] != '"':
            return self.raw[self._arguments_start : end if end >= 0 else len(self.raw)]
        text = self.raw[self._arguments_start : end]
        return str(json.loads(text, strict=False)) if end >= 0 else ""

    @property
    def num_arguments_read(self) -> int:
        """How many characters of ``raw`` there are up to the end of ``arguments``."""
        return self._arguments_end if self._arguments_end >= 0 else len(self.raw)

    def feed(self, text: str) -> int:
        """Take characters until it has ended or is broken; return how many were taken.

        Those after the function's name are not taken with it.
        """
        begin, had_name = len(self.raw), bool(self.name)
        # At once: one by one all that was read would be copied for each.
        self.raw += text
        for position, character in enumerate(text):
            self._take(character, begin + position)
            if self.has_ended or self.is_broken or (self.name and not had_name):
                self.raw = self.raw[: begin + position + 1]
                return position + 1
        return len(text)

    def _take(self, character: str, at: int) -> None:
        if self._string_start >= 0:
            self._in_string(character, at)
        elif character in _SPACE:
            return
        elif not self._depth:
            self._depth, self.is_broken = 1, character != "{"
        elif self._depth == 1:
            self._in_object(character, at)
        else:
            self._in_value(character, at)

    def _in_string(self, character: str, at: int) -> None:
        if self._is_escaped:
            self._is_escaped = False
        elif character == "\\":
            self._is_escaped = True
        elif character == '"':
            start, self._string_start = self._string_start, -1
            if self._depth == 1:
                self._string_ended(start, at + 1)

    def _string_ended(self, start: int, end: int) -> None:
        try:
            value = json.loads(self.raw[start:end], strict=False)
        except ValueError:
            self.is_broken = True
            return
        if not self._has_colon:
            self._key = value
        elif self._key == "name":
            self.name, self.is_broken = value, not value
        else:
            self._value_ended(end)

    def _in_object(self, character: str, at: int) -> None:
        if character == '"':
            self._string_start = at
            if self._has_colon:
                self._value_begins(at)
        elif character == ":":
            self.is_broken, self._has_colon = self._key is None or self._has_colon, True
        elif character == ",":
            self._value_ended(at)
            self._key, self._has_colon, self._value_start = None, False, -1
        elif character == "}":
            self._value_ended(at)
            self.has_ended = True
        elif not self._has_colon:
            self.is_broken = True
        else:
            self._value_begins(at)
            self._depth += character in "{["

    def _in_value(self, character: str, at: int) -> None:
        if character == '"':
            self._string_start = at
        elif character in "{[":
            self._depth += 1
        elif character in "}]":
            self._depth -= 1
            if self._depth == 1:
                self._value_ended(at + 1)

    def _value_begins(self, at: int) -> None:
        if self._value_start < 0:
            self._value_start = at
            if self._key in ARGUMENTS_KEYS:
                self._arguments_start = at

    def _value_ended(self, end: int) -> None:
        if self._key in ARGUMENTS_KEYS and self._arguments_end < 0 <= self._arguments_start:
            self._arguments_end = end
