"""What the core raises: always a bug, ours or the worker's, never a client's mistake.

A core that has raised is not to be used again: its lane ends, and the worker is taken anew.
"""

from __future__ import annotations


class ProtocolError(Exception):
    """An event contradicts the step protocol, or what the core had asked for."""


class IllegalMove(Exception):
    """A sequence was to make a move that its state does not have."""
