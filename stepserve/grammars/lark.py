"""Grammars in Lark's notation, as llguidance extends it, written by us."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from llguidance import regex_to_lark

from stepserve.protocol.structured import StructuredOutputs

HEADER = "%llguidance {}\n"
# Between JSON's tokens: a model that may write white space without end sometimes does.
WHITE_SPACE = r"[ ]|\n[ \t]{0,40}"
# What a model thinks before it answers, up to and with the tag that ends it.
_THOUGHT = """thought: "<think>" rest
rest: thinking /\\s{0,3}/
thinking[suffix="</think>"]: /(?s:.*)/
"""


def literal(text: str) -> str:
    """Return a text that is written as it is: JSON's strings are Lark's."""
    return json.dumps(text)


def choice_of(texts: Iterable[str]) -> str:
    """Return a body that is one of the texts."""
    return " | ".join(map(literal, texts))


def json_of(schema: Mapping[str, Any] | bool, guidance: Mapping[str, Any]) -> str:
    """Return a body that is JSON of a schema, written as ``guidance`` says where that does not."""
    if isinstance(schema, Mapping):
        schema = {"x-guidance": dict(guidance), **schema}
    return f"%json {json.dumps(schema)}"


def body_of(asked: StructuredOutputs) -> str:
    """Return the body of a rule for what a text has to be; empty where that is a grammar.

    Raises ValueError where a schema is no JSON.
    """
    if asked.choice:
        return choice_of(asked.choice)
    if asked.regex:
        return f"/{regex_to_lark(asked.regex, use_ascii='')}/"
    if asked.grammar:
        return ""
    schema = json.loads(asked.json or '{"type": "object"}')
    return json_of(schema, {"whitespace_pattern": WHITE_SPACE})


def after_thought(answer: str, is_thinking: bool, rules: Sequence[str] = ()) -> str:
    """Return a grammar of an answer that a thought may precede, or whose thought has begun."""
    first = "rest" if is_thinking else "thought?"
    return f"{HEADER}start: {first} answer\nanswer: {answer}\n{_THOUGHT}" + "".join(rules)
