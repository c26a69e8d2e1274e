"""Whose fault it is, as a type. One tree, translated to gRPC statuses once at each edge.

    StepserveError
    ├── InvalidRequest        the client's: INVALID_ARGUMENT, names the field
    │   ├── OutOfRange        an offset beyond the end: OUT_OF_RANGE
    │   └── Infeasible        asked for rightly, and can't be done now: FAILED_PRECONDITION
    ├── NotFound              the client's: NOT_FOUND
    ├── Unauthenticated       no API key, or one that is not known: UNAUTHENTICATED
    ├── Forbidden             not for this API key: PERMISSION_DENIED, names the field
    ├── Exhausted             a bound was reached: RESOURCE_EXHAUSTED, with a retry hint
    ├── BegunAnew             what was streamed counts no more: FAILED_PRECONDITION
    ├── Unavailable           something we need does not answer: UNAVAILABLE, with a retry hint
    ├── StepRefused           the step protocol's rules: FAILED_PRECONDITION
    └── StepFailed            a worker crashed in a step: ABORTED

Anything else that is raised is a bug of ours. ``code`` is the status's name.
"""

from __future__ import annotations


class StepserveError(Exception):
    """The root; its text is written for the one who reads it."""

    code: str = "UNKNOWN"


class InvalidRequest(StepserveError):
    """The request is wrong. ``field`` is the proto's name for what is."""

    code = "INVALID_ARGUMENT"

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


class OutOfRange(InvalidRequest):
    """There is no such place: an offset beyond the end of an output."""

    code = "OUT_OF_RANGE"


class Infeasible(InvalidRequest):
    """The request is right, but cannot be met as things are: a deadline that is too near."""

    code = "FAILED_PRECONDITION"


class NotFound(StepserveError):
    """No such job or model."""

    code = "NOT_FOUND"


class Unauthenticated(StepserveError):
    """Nobody is known by what was shown. The text never repeats that."""

    code = "UNAUTHENTICATED"


class Forbidden(StepserveError):
    """The API key is known, and may not do this. ``field`` is the proto's name for what."""

    code = "PERMISSION_DENIED"

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


class Exhausted(StepserveError):
    """A bound was reached; trying again after ``retry_after_ms`` may work."""

    code = "RESOURCE_EXHAUSTED"

    def __init__(self, problem: str, retry_after_ms: int) -> None:
        super().__init__(problem)
        self.retry_after_ms = retry_after_ms


class BegunAnew(StepserveError):
    """The job was begun anew on another model: tokens that were streamed count no more."""

    code = "FAILED_PRECONDITION"


class Unavailable(StepserveError):
    """Redis or a worker does not answer. Try again after ``retry_after_ms``."""

    code = "UNAVAILABLE"
    retry_after_ms = 1000


class StepRefused(StepserveError):
    """A stale epoch, a gap, or another incarnation: nothing was changed."""

    code = "FAILED_PRECONDITION"


class StepFailed(StepserveError):
    """A step failed in a way that ends its worker; what that held is lost."""

    code = "ABORTED"


def first_line(error: BaseException) -> str:
    """The first line of an error's text, its type where it has none; for messages of one line."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def one_line(error: BaseException) -> str:
    """An error in one line: its type, and the first line of its text."""
    name, text = type(error).__name__, first_line(error)
    return name if text == name else f"{name}: {text}"
