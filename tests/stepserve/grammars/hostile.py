"""What a client may ask for that would take for ever, or all memory, were nothing bounded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from stepserve.protocol.structured import MAX_CHOICES, StructuredOutputs

S = StructuredOutputs
MAX = 60_000


def _nested(depth: int, kind: str) -> str:
    """A schema in a schema in a schema."""
    if kind == "array":
        return '{"type":"array","items":' * depth + "{}" + "}" * depth
    return '{"properties":{"a":' * depth + "{}" + "}}" * depth


def _schema(**values: Any) -> StructuredOutputs:
    return S(json=json.dumps(values))


def _mutual(count: int) -> StructuredOutputs:
    """Definitions each of which may be any of the others."""
    names = [f"#/$defs/d{i}" for i in range(count)]
    refs = [{"$ref": name} for name in names]
    defs = {f"d{i}": {"anyOf": refs} for i in range(count)}
    return _schema(**{"$ref": names[0], "$defs": defs})


def _doubling(count: int) -> StructuredOutputs:
    """Each rule is two of the next one: 2 ** count letters."""
    rules = [f"r{i}: r{i + 1} r{i + 1}" for i in range(count)]
    return S(grammar="\n".join(["start: r0", *rules, f'r{count}: "a"']))


ANY_OF = {"anyOf": [{"type": "string", "pattern": f"^(a|b)*a(a|b){{{n}}}$"} for n in range(30)]}
HOSTILE: Mapping[str, StructuredOutputs] = {
    "nested arrays": S(json=_nested(1900, "array")),
    "nested objects": S(json=_nested(1900, "object")),
    "a schema of brackets": S(json="[" * MAX),
    "no JSON": S(json='{"type": '),
    "half a surrogate pair": _schema(const="\ud800"),
    "an endless reference": _schema(**{"$ref": "#"}),
    "references in a ring": _mutual(40),
    "a reference to elsewhere": _schema(**{"$ref": "https://example.com/schema.json"}),
    "a huge enum": _schema(enum=[f"{i:x}" for i in range(7000)]),
    "a long constant": _schema(const="x" * (MAX - 20)),
    "many properties": _schema(
        properties={f"p{i}": {"type": "integer"} for i in range(1900)}, required=["p1"]
    ),
    "all optional, in any number": _schema(
        properties={f"p{i}": {} for i in range(400)}, additionalProperties=False
    ),
    "patterns that explode": _schema(**ANY_OF),
    "all of everything": _schema(allOf=[ANY_OF, ANY_OF, {"type": "string", "minLength": 9}]),
    "a great minimum of items": _schema(type="array", items={}, minItems=10**6),
    "a long string": _schema(type="string", minLength=10**6, maxLength=10**9),
    "a number of many digits": _schema(type="integer", minimum=10**300, maximum=10**301),
    "a small multiple": _schema(type="number", multipleOf=1e-30),
    "counted repetitions": S(regex="((a{0,1000}){0,1000}){0,1000}"),
    "an exponential automaton": S(regex="(a|b)*a(a|b){28}"),
    "nested stars": S(regex="(" * 400 + "a" + "*)" * 400),
    "an alternation of many": S(regex="|".join(f"{i:x}z*" for i in range(9000))),
    "every letter there is": S(regex=r"(\p{L}|\p{M}){1,400}\p{Lu}{400}"),
    "a look behind": S(regex="(?<=a)b"),
    "bytes that are no text": S(regex=r"(?-u:\xff)+"),
    "nothing": S(regex="[^\\s\\S]"),
    "rules that double": _doubling(60),
    "an empty rule again and again": S(grammar='start: a* b\na: b*\nb: ""'),
    "left recursion": S(grammar='start: start start | start start start | "a" | ""'),
    "a rule that never ends": S(grammar='start: "a" start'),
    "ambiguity": S(grammar='start: e\ne: e "+" e | e e | "a" | "aa" | "aaa"'),
    "a deep GBNF": S(grammar="root ::= " + "(" * 30_000),
    "a long GBNF": S(grammar="root ::= " + ' "a" |' * 5_000 + ' "b"'),
    "many choices": S(choice=tuple(f"{i:x}" for i in range(MAX_CHOICES))),
    "long choices": S(choice=tuple("a" * i for i in range(1, 350))),
}
