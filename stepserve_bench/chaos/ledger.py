"""Every accepted job and every token that a client saw of it, and what of that is wrong."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from stepserve import Completion
from stepserve.protocol.inference import StreamEvent
from stepserve_bench.chaos.jobs import ChaosJob, Output, Truth


@dataclass(slots=True)
class Seen:
    """One output as its follower saw it. ``times_s``: when each event with tokens came."""

    token_ids: list[int] = field(default_factory=list)
    times_s: list[float] = field(default_factory=list)
    reason: str = ""
    text: str = ""


@dataclass(slots=True)
class Entry:
    """An accepted job."""

    job_id: str
    job: ChaosJob
    outputs: list[Seen]

    @property
    def has_ended(self) -> bool:
        return all(seen.reason for seen in self.outputs)

    @property
    def offsets(self) -> list[int]:
        """Where each output goes on."""
        return [len(seen.token_ids) for seen in self.outputs]


class Ledger:
    """Notes what clients are told, and at once what contradicts what they were told before."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        # Each begins with its kind and a colon: "lost", "repeated", "contradicted" ...
        self.problems: list[str] = []

    def accept(self, job_id: str, job: ChaosJob) -> Entry:
        """A client was told that the job is accepted."""
        if job_id in self.entries:
            self.problems.append(f"accepted twice: {job_id}")
        entry = Entry(job_id, job, [Seen() for _ in range(job.n)])
        self.entries[job_id] = entry
        return entry

    def see(self, entry: Entry, event: StreamEvent, at_s: float) -> None:
        """The job's follower was told something new."""
        if event.job_id != entry.job_id:
            self.problems.append(f"another's: {event.job_id} in the stream of {entry.job_id}")
            return
        seen, where = entry.outputs[event.index], f"{entry.job_id}[{event.index}]"
        if not seen.reason:
            seen.text += event.text
        if event.token_ids:
            if event.offset != len(seen.token_ids):
                kind = "skipped" if event.offset > len(seen.token_ids) else "repeated"
                told = f"offset {event.offset} after {len(seen.token_ids)} tokens"
                self.problems.append(f"{kind}: {where}, {told}")
            if seen.reason:
                self.problems.append(f"after its end: {where}")
            seen.token_ids += event.token_ids
            seen.times_s.append(at_s)
        if event.finish is not None:
            # Who comes back to a job is told again of the outputs that have ended.
            if seen.reason not in ("", event.finish.reason):
                told = f"{event.finish.reason!r} after {seen.reason!r}"
                self.problems.append(f"ended twice: {where}, {told}")
            seen.reason = event.finish.reason

    def fail(self, what: str, error: Exception) -> None:
        """A client was told of an error where it should have been told of none."""
        self.problems.append(f"client error: {what}: {type(error).__name__}: {error}")

    @property
    def num_tokens(self) -> int:
        """Tokens that clients saw."""
        return sum(sum(entry.offsets) for entry in self.entries.values())

    def check(self, truth: Truth) -> None:
        """Compare every job with what it gives undisturbed."""
        for entry in self.entries.values():
            told = [(seen.token_ids, seen.reason) for seen in entry.outputs]
            self.problems += differences(entry.job_id, told, truth.outputs(entry.job))

    def check_stored(self, done: Completion) -> None:
        """Compare what is stored of a job with what its follower saw, text and all."""
        told, job_id = self.entries[done.job_id].outputs, done.job_id
        stored = [(output.token_ids, output.finish_reason) for output in done.outputs]
        found = differences(job_id, stored, [(seen.token_ids, seen.reason) for seen in told])
        for seen, output in zip(told, done.outputs, strict=True):
            if seen.text != output.text:
                found.append(f"text: {job_id}[{output.index}]")
        self.problems += [f"stored otherwise than told: {problem}" for problem in found]

    def check_known(self, job_ids: Iterable[str]) -> None:
        """Compare the jobs that the service knows with those that clients were told of."""
        known = set(job_ids)
        self.problems += [f"forgotten: {i}" for i in sorted(self.entries.keys() - known)]
        self.problems += [f"of nobody: {i}" for i in sorted(known - self.entries.keys())]


def differences(job_id: str, found: Sequence[Output], right: Sequence[Output]) -> list[str]:
    """Return a line for each output that is not as it should be."""
    problems = []
    for index, ((tokens, reason), (all_tokens, end)) in enumerate(zip(found, right, strict=True)):
        where = f"{job_id}[{index}]"
        common = min(len(tokens), len(all_tokens))
        wrong = [at for at in range(common) if tokens[at] != all_tokens[at]]
        if wrong:
            at = wrong[0]
            told = f"token {at} is {tokens[at]}, not {all_tokens[at]}"
            problems.append(f"contradicted: {where}, {told}")
        elif not reason:
            problems.append(f"lost: {where} has not ended, {len(tokens)} of {len(all_tokens)}")
        elif len(tokens) != len(all_tokens):
            problems.append(f"of another length: {where}, {len(tokens)} of {len(all_tokens)}")
        if reason and reason != end:
            problems.append(f"of another end: {where}, {reason!r}, not {end!r}")
    return problems
