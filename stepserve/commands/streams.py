"""How a job's stream is shown, and what is said where it is cut off."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Protocol

from stepserve.client.completion import Completion
from stepserve.client.errors import CallFailed
from stepserve.client.json_forms import event_json
from stepserve.process.stopping import unbroken
from stepserve.protocol.errors import Unavailable
from stepserve.protocol.inference import StreamEvent, Usage
from stepserve.protocol.job import Finish


class View(Protocol):
    """Shows events as they come."""

    # The first token that was not shown.
    next_offset: int

    def show(self, event: StreamEvent) -> None: ...


class Text:
    """One output: its text, as it comes, and how it ended on standard error."""

    def __init__(self, offset: int) -> None:
        self.next_offset = offset

    def show(self, event: StreamEvent) -> None:
        print(event.text, end="", flush=True)
        if event.token_ids:
            self.next_offset = event.offset + len(event.token_ids)
        if event.finish is not None:
            _say(f"\n[{_ending(event.index, event.finish)}]")
        _say_usage(event)


class Blocks:
    """Several outputs: each as a whole when it has ended, since they come interleaved."""

    def __init__(self, offset: int) -> None:
        self.next_offset = offset
        self._texts: dict[int, list[str]] = {}

    def show(self, event: StreamEvent) -> None:
        self._texts.setdefault(event.index, []).append(event.text)
        if event.finish is not None:
            _print_block(event.index, event.finish, "".join(self._texts.pop(event.index)))
        _say_usage(event)


class JsonLines:
    """Every event as a line, with all that is in it."""

    def __init__(self, num_outputs: int, offset: int) -> None:
        self.next_offset = offset
        self._ends = dict.fromkeys(range(num_outputs), offset)

    def show(self, event: StreamEvent) -> None:
        print(json.dumps(event_json(event)), flush=True)
        if event.token_ids:
            self._ends[event.index] = event.offset + len(event.token_ids)
            self.next_offset = min(self._ends.values())


def view(num_outputs: int, *, as_json: bool, offset: int = 0) -> View:
    """Return what shows so many outputs from an offset on."""
    if as_json:
        return JsonLines(num_outputs, offset)
    return Text(offset) if num_outputs == 1 else Blocks(offset)


def show(events: Iterable[StreamEvent], view: View, options: str) -> int:
    """Show a stream to its end; return the exit status, 1 where an output failed.

    Where it is cut off, what is said of how to go on has ``options`` in it.
    """
    failed, job_id = False, ""
    try:
        for event in events:
            job_id = event.job_id
            with unbroken():  # What is shown has to be counted: it would be shown again.
                view.show(event)
            failed = failed or event.finish_reason == "error"
    except (KeyboardInterrupt, Unavailable, CallFailed):
        if job_id:
            _say(_how_to_go_on(job_id, view.next_offset, options))
        raise
    return 1 if failed else 0


def show_whole(completion: Completion) -> None:
    """Show all of a job's output, as a stream of it would have been."""
    for output in completion.outputs:
        finish = Finish(output.finish_reason, output.finish_message)
        if len(completion.outputs) > 1:
            _print_block(output.index, finish, output.text)
        else:
            print(output.text, end="", flush=True)
            _say(f"\n[{_ending(output.index, finish)}]")
    _say(f"[{completion.job_id}: {_counts(completion.usage)}]")


def _print_block(index: int, finish: Finish, text: str) -> None:
    print(f"--- output {_ending(index, finish)} ---\n{text}", flush=True)


def _ending(index: int, finish: Finish) -> str:
    return f"{index}: {finish.reason}" + (f": {finish.message}" if finish.message else "")


def _counts(usage: Usage) -> str:
    return f"{usage.prompt_tokens} prompt and {usage.completion_tokens} output tokens"


def _how_to_go_on(job_id: str, offset: int, options: str) -> str:
    attach = f"stepserve attach {job_id}{options}" + (f" --offset {offset}" if offset else "")
    cancel = f"stepserve cancel {job_id}{options}"
    width = max(len(attach), len(cancel))
    return (
        f"\nstepserve: job {job_id} goes on without you\n"
        f"  {attach:<{width}}  shows the rest\n  {cancel:<{width}}  ends it"
    )


def _say_usage(event: StreamEvent) -> None:
    if event.usage is not None:
        _say(f"[{event.job_id}: {_counts(event.usage)}]")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
