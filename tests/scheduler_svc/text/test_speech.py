"""What a model says is taken apart alike, however its text is cut into pieces."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler_svc.text.speech import Manner, Piece, Speech, manner_of

QWEN = Manner(thinks=True, calls="tags", tools=("f",))
LLAMA = Manner(calls="bare", tools=("f",))
CALL = '{"name": "f", "arguments": {"a": [1, {"b": "}</tool_call>"}]}}'
Told = list[tuple[str, str, int]]

# Each with what it is taken apart into.
CASES: list[tuple[Manner, str, Told]] = [
    (Manner(), " <think>{", [("content", " <think>{", -1)]),
    (
        QWEN,
        f"<think>\nhmm < a\n</think>\n\nHello <b>  \n<tool_call>\n{CALL}\n</tool_call>\nbye ",
        [
            ("reasoning", "hmm < a", -1),
            ("content", "Hello <b>", -1),
            ("call", "f", 0),
            ("arguments", '{"a": [1, {"b": "}</tool_call>"}]}', 0),
            ("content", "bye ", -1),
        ],
    ),
    (
        QWEN,
        '<tool_call>{"arguments": {"x":1}, "name": "g"}</tool_call><tool_call>{"name":"h"}',
        [("call", "g", 0), ("arguments", '{"x":1}', 0), ("call", "h", 1), ("arguments", "{}", 1)],
    ),
    (
        QWEN,
        r'<tool_call>{"name":"f","arguments":"{\"a\":1}"}</tool_call>',
        [("call", "f", 0), ("arguments", '{"a":1}', 0)],
    ),
    (
        QWEN,
        '<tool_call>{"name":"f","arguments":"a\nb"}</tool_call>',
        [("call", "f", 0), ("arguments", "a\nb", 0)],
    ),
    (QWEN, "<tool_call>none</tool_call> x", [("content", "<tool_call>none</tool_call> x", -1)]),
    (QWEN, '<tool_call>\n{"na', [("content", '<tool_call>\n{"na', -1)]),
    (
        QWEN,
        '<tool_call>{"name":"f","arguments":{"a":',
        [("call", "f", 0), ("arguments", '{"a":', 0)],
    ),
    (QWEN, "<<think>x</think>y <thi", [("content", "<<think>x</think>y <thi", -1)]),
    (QWEN, "<thi", [("content", "<thi", -1)]),
    (QWEN, "<think>on and", [("reasoning", "on and", -1)]),
    (
        Manner(thinks=True, begins_thinking=True),
        "so</think>a",
        [("reasoning", "so", -1), ("content", "a", -1)],
    ),
    (
        LLAMA,
        '{"name": "f", "parameters": {"a": 1}}; {"name":"f","parameters":{}}',
        [("call", "f", 0), ("arguments", '{"a": 1}', 0), ("call", "f", 1), ("arguments", "{}", 1)],
    ),
    (LLAMA, '{"name":"z", "parameters":{}}', [("content", '{"name":"z", "parameters":{}}', -1)]),
    (LLAMA, 'I call {"name":"f"}', [("content", 'I call {"name":"f"}', -1)]),
    (LLAMA, ' {"foo": 1}', [("content", '{"foo": 1}', -1)]),
    (QWEN, " \n", []),
]  # fmt: skip


def pieces_of(manner: Manner, text: str, cuts: Sequence[int]) -> list[Piece]:
    speech, pieces, start = Speech(manner), [], 0
    for end in (*sorted(cuts), len(text)):
        pieces += speech.feed(text[start:end])
        start = end
    return pieces + speech.finish()


def joined(pieces: Sequence[Piece]) -> list[Piece]:
    """Return the pieces with those that are one run as one."""
    found: list[Piece] = []
    for piece in pieces:
        last = found[-1] if found else None
        if last and piece.kind == last.kind != "call" and piece.call == last.call:
            text = last.text + piece.text
            found[-1] = Piece(piece.kind, text, last.start, piece.end, piece.call)
        else:
            found.append(piece)
    return found


@pytest.mark.parametrize(("manner", "text", "told"), CASES)
def test_what_is_said_is_told_apart(manner: Manner, text: str, told: Told) -> None:
    pieces = joined(pieces_of(manner, text, range(len(text))))
    assert [(piece.kind, piece.text, piece.call) for piece in pieces] == told


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_pieces_do_not_depend_on_how_the_text_came(data: st.DataObject) -> None:
    manner, text, _ = data.draw(st.sampled_from(CASES))
    if data.draw(st.booleans()):
        parts = (
            "<think>",
            "</think>",
            "<tool_call>",
            "</tool_call>",
            CALL,
            "{",
            '"',
            " ",
            "a",
            "<",
        )
        text = "".join(data.draw(st.lists(st.sampled_from(parts), max_size=12)))
    places = st.lists(st.integers(0, len(text)), max_size=10)
    one = pieces_of(manner, text, data.draw(places))
    other = pieces_of(manner, text, data.draw(places))
    assert [(p.kind, p.text, p.call, p.end) for p in joined(one)] == [
        (p.kind, p.text, p.call, p.end) for p in joined(other)
    ]
    ends = [piece.end for piece in one]
    assert ends == sorted(ends)


def test_a_template_tells_how_its_model_speaks() -> None:
    qwen = manner_of("... <tool_call> ... </think>", "x<think>\n", ["f"])
    assert qwen == Manner(True, True, "tags", ("f",))
    assert manner_of('{"name": .., "parameters": ..}', "x", ["f"]).calls == "bare"
    assert manner_of("nothing", "x", []) == Manner()
