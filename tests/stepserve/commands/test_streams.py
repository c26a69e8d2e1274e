"""Where a shown stream is cut off, and what is said of it then."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from stepserve.commands.streams import show, view
from stepserve.protocol.inference import StreamEvent


@pytest.mark.parametrize("as_json", [False, True])
def test_what_was_shown_when_ctrl_c_came_is_not_to_be_shown_again(
    as_json: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before, write = signal.getsignal(signal.SIGINT), sys.stdout.write
    interrupted: list[str] = []

    def interrupting(text: str) -> int:
        if not interrupted and "dog" in text:
            interrupted.append(text)
            os.kill(os.getpid(), signal.SIGINT)
        return write(text)

    monkeypatch.setattr(sys.stdout, "write", interrupting)
    events = [
        StreamEvent("job", 0, 0, (5, 6), "a dog"),
        StreamEvent("job", 0, 2, (7,), " ran"),
    ]
    with pytest.raises(KeyboardInterrupt):
        show(events, view(1, as_json=as_json), "")
    out, errors = capsys.readouterr()
    assert interrupted
    assert "dog" in out
    assert "ran" not in out
    assert "--offset 2" in errors
    assert signal.getsignal(signal.SIGINT) is before
